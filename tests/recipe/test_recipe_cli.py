"""`validate` and `schema` as a person or a script meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMOLLM2 = ROOT / "recipes" / "smollm2-135m.yaml"


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploykit", *args]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def test_a_valid_recipe_is_one_line_and_exit_0() -> None:
    done = run("validate", "recipes/smollm2-135m.yaml")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "ok recipes/smollm2-135m.yaml (smollm2-135m)\n",
        "",
    )


def test_all_files_are_told_of_and_one_wrong_one_is_exit_2(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nmodel: {id: a/b}\nengine:\n  session-len: 1\n  tp: 0\n")
    done = run("validate", str(bad), str(SMOLLM2))
    assert done.returncode == 2
    assert f"{bad}:4:3" in done.stdout
    assert f"{bad}:5:7" in done.stdout
    assert f"2 errors in {bad}" in done.stdout
    assert f"ok {SMOLLM2} (smollm2-135m)" in done.stdout
    assert "\x1b" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_json_for_scripts(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nmodel: {id: a/b}\nengin: {}\n")
    done = run("validate", "--format", "json", str(SMOLLM2), str(bad))
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert [(f["ok"], f["name"]) for f in report["files"]] == [(True, "smollm2-135m"), (False, None)]
    assert report["errors"] == [
        {
            "code": "unknown-key",
            "message": "unknown key `engin`",
            "file": str(bad),
            "line": 3,
            "col": 1,
            "length": 5,
            "help": "did you mean `engine`?",
            "related": [],
            "rename": "engine",
        }
    ]
    assert report["fixed"] == []


def test_set_is_checked_with_the_file() -> None:
    assert run("validate", str(SMOLLM2), "--set", "engine.session_len=1024").returncode == 0
    done = run("validate", str(SMOLLM2), "--set", "engine.sesion_len=1024")
    assert done.returncode == 2
    assert "did you mean `session_len`?" in done.stdout


def test_a_terminal_that_knows_ascii_only_is_no_reason_to_crash(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nmodel: {id: a/b}\nдé: 1\n")
    done = run("validate", str(bad), PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 2
    assert "unknown-key" in done.stdout
    assert "Traceback" not in done.stderr


def test_schema_prints_the_committed_file_or_a_part_of_it() -> None:
    assert run("schema").stdout == (ROOT / "schemas" / "recipe.v1.json").read_text()
    assert json.loads(run("schema", "engine.tp", "--json").stdout)["maximum"] == 64
    wrong = run("schema", "engine.cache.ration")
    assert wrong.returncode == 2
    assert "did you mean `ratio`?" in wrong.stderr


def test_the_room_is_light() -> None:
    code = (
        "import sys; from deploykit.recipe import load_recipe; load_recipe(sys.argv[1]);"
        "print(*[m for m in ('torch', 'transformers', 'numpy', 'rich', 'jinja2', 'jsonschema') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SMOLLM2)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
