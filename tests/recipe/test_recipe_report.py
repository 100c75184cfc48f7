"""`--format github` and `--format sarif`, as the programs that read them do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deploykit import __version__
from deploykit.cli.app import main
from deploykit.recipe.codes import CODES

TEXT = """\
version: 1
model: {id: a/b, path: c}
engine:
  sesion_len: 4096
  "a,b:%": 1
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sub folder" / "recipe.yaml"
    file.parent.mkdir()
    file.write_text(TEXT)
    return file


def test_github_has_a_command_for_each_error(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--format", "github", str(recipe), "none.yaml", "--set", "server.port=x"]) == 2
    lines = capsys.readouterr().out.splitlines()
    parsed = []
    for line in lines:
        match = re.fullmatch(r"::error ([^:]*)::(.+)", line)
        assert match is not None, line
        properties = dict(pair.split("=", 1) for pair in match[1].split(","))
        parsed.append((properties, match[2]))
    first, _ = parsed[0]
    assert first == {
        "file": "sub folder/recipe.yaml", "line": "2", "col": "18", "endColumn": "22", "title": "conflict",
    }  # fmt: skip
    assert [p["title"] for p, _ in parsed] == [
        "conflict",
        "unknown-key",
        "unknown-key",
        "wrong-type",
        "missing-file",
    ]
    assert parsed[2][1].startswith("unknown key `engine.a,b:%25`%0A")
    assert "file" not in parsed[3][0]
    assert parsed[3][1].startswith("--set server.port=x: ")
    assert parsed[4][0] == {"file": "none.yaml", "title": "missing-file"}


def sarif(*args: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    main(["validate", "--format", "sarif", *args])
    log: dict[str, Any] = json.loads(capsys.readouterr().out)
    return log


def test_sarif_has_rules_places_related_places_and_fixes(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = sarif(str(recipe), capsys=capsys)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert (driver["name"], driver["semanticVersion"]) == ("deploykit", __version__)
    assert [rule["id"] for rule in driver["rules"]] == list(CODES)
    assert run["columnKind"] == "unicodeCodePoints"
    conflict, typo, _ = run["results"]
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert (
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            == "sub%20folder/recipe.yaml"
        )
    assert conflict["relatedLocations"][0]["physicalLocation"]["region"] == {
        "startLine": 2, "startColumn": 9, "endLine": 2, "endColumn": 11,
    }  # fmt: skip
    (change,) = typo["fixes"][0]["artifactChanges"]
    (replacement,) = change["replacements"]
    region = replacement["deletedRegion"]
    line = TEXT.splitlines()[region["startLine"] - 1]
    assert line[region["startColumn"] - 1 : region["endColumn"] - 1] == "sesion_len"
    assert replacement["insertedContent"] == {"text": "session_len"}


def test_sarif_of_what_has_no_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text("version: 1\nmodel: {id: a/b}\n")
    assert sarif(str(recipe), capsys=capsys)["runs"][0]["results"] == []
    (of_set,) = sarif(str(recipe), "--set", "server.port=x", capsys=capsys)["runs"][0]["results"]
    assert "locations" not in of_set
    assert of_set["message"]["text"].startswith("--set server.port=x: ")
    (missing,) = sarif("/no/such/recipe.yaml", capsys=capsys)["runs"][0]["results"]
    place = missing["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "file:///no/such/recipe.yaml"}}
