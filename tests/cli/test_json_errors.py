"""With `--json` an error is an object on stdout too, with the exit code that it has as a text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from deploykit.cli.app import main

WRONG = "version: 1\nmodel: {path: .}\nengine: {tp: many}\nserver: {prot: 1}\n"
COMMANDS = (
    ("plan",),
    ("plan", "--machine", "laptop"),
    ("config",),
    ("lock",),
    ("lock", "--check"),
    ("pull",),
    ("pull", "--dry-run"),
    ("doctor",),
    ("templates", "show"),
    ("chat",),
)


def answered(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the one object on stdout; nothing of the error is said beside it."""
    code = main(args)
    out, err = capsys.readouterr()
    assert "error" not in err
    data: dict[str, Any] = json.loads(out)
    return code, data


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    return str(path)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_wrong_recipe_is_told_as_validate_tells_it(
    command: tuple[str, ...],
    wrong: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, checked = answered(capsys, "validate", wrong, "--format", "json")
    assert code == 2
    assert [(e["code"], e["line"], e["col"]) for e in checked["errors"]] == [
        ("wrong-type", 3, 14),
        ("unknown-key", 4, 10),
    ]
    verb, *rest = command
    question = ["hello"] if verb == "chat" else []
    code, data = answered(capsys, verb, *rest, wrong, *question, "--json")
    assert code == 2
    assert data["errors"] == checked["errors"]
    assert set(data["error"]) == {"what", "where", "why", "fix"}
    assert data["error"]["where"] == f"{wrong}:3:14"


def test_another_error_has_its_four_texts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = str(tmp_path / "none.gguf")
    code, data = answered(capsys, "config", missing, "--json")
    assert code == 2
    assert main(["config", missing]) == 2
    text = capsys.readouterr().err
    assert data["errors"] == []
    assert data["error"]["what"] in text
    assert data["error"]["fix"] is None or data["error"]["fix"] in text


def test_without_json_it_stays_a_text_on_stderr(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", wrong]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error[wrong-type]")
    assert main(["config", "--", "--json"]) == 2  # the name of a target, and no option
    assert capsys.readouterr().out == ""
