"""A recipe on stdin, called `-`: checked, merged and planned like a file of the working folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = "version: 1\nmodel: {path: models/mine}\n"


def given(text: str | None, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """A command with `text` on its stdin; closed where it is None."""
    command = [sys.executable, "-m", "deploykit", *args]
    env = {**os.environ, "DEPLOYKIT_CACHE": str(folder / "cache"), "DEPLOYKIT_STATE": str(folder / "state")}
    if text is None:
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    return subprocess.run(
        command, input=text, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_mistakes_stand_at_their_lines(tmp_path: Path) -> None:
    done = given(f"{RECIPE}server: {{prot: 1}}\n", tmp_path, "validate", "-", "--format", "json")
    assert done.returncode == 2
    data = json.loads(done.stdout)
    assert data["files"] == [{"file": "<stdin>", "ok": False, "name": None}]
    assert [(e["file"], e["code"], e["line"], e["col"]) for e in data["errors"]] == [
        ("<stdin>", "unknown-key", 3, 10)
    ]
    right = given(RECIPE, tmp_path, "validate", "-")
    assert (right.returncode, right.stdout) == (0, "ok <stdin> (stdin)\n")


def test_paths_are_relative_to_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("version: 1\nengine: {max_batch_size: 7}\n")
    text = f"extends: base.yaml\n{RECIPE}profiles: {{long: {{engine: {{session_len: 512}}}}}}\n"
    done = given(text, tmp_path, "config", "-", "--profile", "long", "--json")
    assert done.returncode == 0, done.stdout
    recipe = json.loads(done.stdout)["recipe"]
    assert recipe["model"]["path"] == str(tmp_path / "models" / "mine")
    assert recipe["engine"] == {"max_batch_size": 7, "session_len": 512}
    plan = given(text, tmp_path, "plan", "-", "--json")
    assert (plan.returncode, json.loads(plan.stdout)["error"]["where"]) == (2, str(tmp_path / "models/mine"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "stdin is closed"),
        ("", "there is nothing in this recipe"),
        ("#" * (1 << 20), "nothing in this"),
    ],
    ids=["closed", "empty", "comments"],
)
def test_nothing_on_stdin(tmp_path: Path, text: str | None, said: str) -> None:
    done = given(text, tmp_path, "config", "-")
    assert done.returncode == 2
    assert said in done.stderr
    assert "<stdin>" in done.stderr


def test_too_much_on_stdin(tmp_path: Path) -> None:
    done = given("#" * ((1 << 20) + 1), tmp_path, "config", "-")
    assert done.returncode == 2
    assert "larger than 1 MiB" in done.stderr


@pytest.mark.parametrize(
    "args",
    [("lock", "-"), ("plan", "-", "--locked"), ("validate", "-", "--fix"), ("init", "-"), ("chat", "-")],
    ids=" ".join,
)
def test_what_needs_a_file_says_so(tmp_path: Path, args: tuple[str, ...]) -> None:
    done = given(RECIPE, tmp_path, *args)
    assert done.returncode == 2
    assert "stdin" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".yaml", ".lock")]
