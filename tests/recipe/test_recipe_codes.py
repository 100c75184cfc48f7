"""Every error code is explained, and every explanation is true."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit.cli.app import main
from deploykit.recipe import check_files
from deploykit.recipe.codes import CODES
from deploykit.recipe.examples import example_errors, example_text

ROOT = Path(__file__).parents[2]
MAKERS = {"diagnostic", "Diagnostic", "_Found", "_report", "_refuse", "_Fault", "Conflict"}


def raised() -> set[str]:
    """Every code that the room can give: texts of a code's form in the calls that make diagnostics, and in `_kind`."""
    found: set[str] = set()
    for file in (ROOT / "deploykit" / "recipe").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                if name not in MAKERS:
                    continue
            elif not (isinstance(node, ast.FunctionDef) and node.name in ("_kind", "_bad")):
                continue
            texts = {
                c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)
            }
            found |= texts & set(CODES) | {
                t for t in texts if t.count("-") and t.replace("-", "").isalpha() and t.islower()
            }
    return found


def test_every_code_that_can_be_raised_is_explained() -> None:
    # `_Fault` and `Conflict` have these as defaults, not as arguments.
    assert raised() | {"yaml-syntax", "conflict"} == set(CODES)


@pytest.mark.parametrize("name", list(CODES))
def test_an_example_has_its_error_and_no_other(name: str, tmp_path: Path) -> None:
    code = CODES[name]
    assert code.meaning.endswith(".")
    assert code.fix.rstrip("?").endswith((".", "all", "`"))
    file = tmp_path / "recipe.yaml"
    if code.example is None:
        path = {"missing-file": file, "not-a-file": tmp_path, "unreadable-file": tmp_path / ("x" * 999)}[name]
        assert [d.code for d in check_files([path])] == [name]
        return
    file.write_bytes(code.example if isinstance(code.example, bytes) else code.example.encode())
    found = [d.code for d in check_files([file], code.sets, code.profiles)]
    assert set(found) == ({name} if name != "too-many-errors" else {name, "unknown-key"})
    assert found[-1] == name
    assert [d.code for d in example_errors(code)] == [name]


@pytest.mark.parametrize("name", list(CODES))
def test_explain_shows_meaning_example_and_fix(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    out = capsys.readouterr().out
    words = " ".join(out.split())
    assert CODES[name].title in out
    assert " ".join(CODES[name].meaning.split()) in words
    assert " ".join(CODES[name].fix.split()) in words
    assert f"$ {CODES[name].command}" in out
    if CODES[name].example is not None:
        assert f"error[{name}]" in out
        assert example_text(CODES[name]).splitlines()[0] in out
    assert not [c for c in out if not (c.isprintable() or c == "\n")]


def test_explain_lists_takes_what_is_printed_and_knows_a_misspelling(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CODES)
    assert main(["explain", "error[yaml-tab]"]) == 0
    assert main(["explain", "unknwon-key"]) == 2
    assert "deploykit explain unknown-key" in capsys.readouterr().err
    assert main(["explain", "conflict", "--json"]) == 0
    # what came before is the text of yaml-tab
    report = json.loads(capsys.readouterr().out)
    assert report["errors"][0]["related"][0]["message"] == "`engine.max_batch_size` is set here"


def test_explain_is_light() -> None:
    code = (
        "import sys; from deploykit.cli.app import main; main(['explain', 'unknown-key']);"
        "print('@', *[m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rpartition("@")[2].strip() == ""
