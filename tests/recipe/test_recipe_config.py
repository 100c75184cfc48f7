"""`deploykit config`: a recipe that says the same, where every value comes from, and no secret in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from recipe_files import HEAD, write

from deploykit.cli.app import main
from deploykit.recipe import load_recipe
from deploykit.recipe.dump import dump_yaml, merged_data, to_yaml, values_of
from deploykit.recipe.loader import parse

ROOT = Path(__file__).parents[2]

TEXT = """\
--- recipe.yaml
extends: base/base.yaml
x-note: &d {max_body: 1MiB}
description: ${env.WHO:-nobody}'s $$5 and $${x}, ${vars.word}
engine: {cache: !reset {block_len: 32}}
server: {limits: *d, port: "${env.A_PORT}"}
profiles:
  long: {vars: {ctx: 32768}, engine: {tp: 2}}
--- base/base.yaml
version: 1
vars: {ctx: 8192, word: "off"}
engine:
  session_len: ${vars.ctx}
  cache: {ratio: 0.5}
model:
  path: m.gguf
chat: {system: "two\\nlines, 'quoted': # no comment", defaults: {stop: ["1e3", "null", " ", "yes"]}}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("A_PORT", "8000")
    monkeypatch.delenv("WHO", raising=False)
    return write(tmp_path, TEXT)


def test_it_reads_back_to_the_same_recipe_wherever_it_lies(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [str(recipe), "--profile", "long", "--set", "engine.threads=3"]
    assert main(["config", *args]) == 0
    text = capsys.readouterr().out
    other = tmp_path / "elsewhere" / "recipe.yaml"
    other.parent.mkdir()
    other.write_text(text)
    first = load_recipe(recipe, ["engine.threads=3"], ["long"])
    assert load_recipe(other).recipe == first.recipe
    assert first.recipe.engine.tp == 2
    assert first.recipe.description == "nobody's $5 and ${x}, off"
    assert not {"extends", "vars", "profiles", "x-note"} & parse(text, "x").data.keys()
    assert list(parse(text, "x").data) == ["version", "description", "model", "engine", "chat", "server"]


def origins(recipe: Path, *args: str, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """What `--explain` prints in a pipe: the value and the origin of every key."""
    assert main(["config", str(recipe), "--explain", *args]) == 0
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        key, _, rest = line.partition("  ")
        value, _, origin = rest.strip().rpartition("  ")
        rows[key] = (value.strip(), origin.replace(f"{recipe.parent}/", ""))
    return rows


def test_explain_tells_of_every_value_where_it_comes_from(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYKIT_SET__Server__Drain_Timeout", "5s")
    rows = origins(recipe, "--profile", "long", "--set", "engine.threads=3", capsys=capsys)
    assert rows["version"] == ("1", "base/base.yaml:1:10")
    assert rows["model.path"] == (str(recipe.parent / "base" / "m.gguf"), "base/base.yaml:7:9")
    reference = "base/base.yaml:4:16 (vars.ctx from recipe.yaml:7:22, profile long)"
    assert rows["engine.session_len"] == ("32768", reference)
    assert rows["engine.tp"] == ("2", "recipe.yaml:7:43 (profile long)")
    assert rows["engine.threads"] == ("3", "--set")
    assert rows["engine.cache.block_len"] == ("32", "recipe.yaml:4:36")
    assert rows["engine.cache.ratio"] == ("0.8", "default")
    assert rows["server.port"] == ("8000", "recipe.yaml:5:28 (env A_PORT)")
    assert rows["server.drain_timeout"] == ("5s", "DEPLOYKIT_SET__Server__Drain_Timeout")
    assert rows["server.limits.max_body"] == ("1MiB", "recipe.yaml:2:23")  # where the anchor is
    assert rows["server.limits.request_timeout"] == ("10m", "default")
    assert rows["server.host"] == ("127.0.0.1", "default")
    assert rows["chat.defaults.stop"] == ('["1e3", "null", " ", "yes"]', "base/base.yaml:8:71")


def test_a_terminal_gets_a_table(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploykit.cli._output.coloured", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "240")
    assert main(["config", str(recipe), "--explain"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["key", "value", "from"]
    assert any(line.split()[:2] == ["engine.session_len", "8192"] for line in lines)


def test_every_key_of_the_schema_is_explained(recipe: Path) -> None:
    def leaves(model: Any, path: str) -> set[str]:
        found = set()
        for key in type(model).model_fields:
            inner = getattr(model, key)
            found |= leaves(inner, f"{path}{key}.") if isinstance(inner, BaseModel) else {f"{path}{key}"}
        return found

    loaded = load_recipe(recipe)
    assert {value.key for value in values_of(loaded)} == leaves(loaded.recipe, "")


def test_json_has_values_and_origins(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", str(recipe), "--json", "--profile", "long"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["name"], report["profiles"], report["all_profiles"]) == ("recipe", ["long"], ["long"])
    assert report["recipe"]["engine"] == {"tp": 2, "session_len": 32768, "cache": {"block_len": 32}}
    values = {value["key"]: value for value in report["values"]}
    assert values["engine.tp"] == {
        "key": "engine.tp",
        "value": 2,
        "origin": {
            "kind": "file",
            "file": str(recipe),
            "line": 7,
            "col": 43,
            "profile": "long",
            "variable": None,
            "references": [],
        },
    }
    assert values["engine.backend"]["origin"]["kind"] == "default"


def test_secrets_stay_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf-very-secret")
    text = (
        f"{HEAD}vars: {{t: '${{env.HF_TOKEN}}', api_key: sk-very-secret}}\ndescription: by ${{vars.t}} for $$5\n"
        "chat:\n  system: ${vars.api_key}\n"
    )
    file = write(tmp_path, text)
    for args in ([], ["--explain"], ["--json"]):
        assert main(["config", str(file), *args]) == 0
        out = capsys.readouterr().out
        assert "very-secret" not in out
        assert "by ${env.HF_TOKEN} for $$5" in out
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(load_recipe(file)))
    assert load_recipe(again).recipe.description == "by hf-very-secret for $5"


def test_an_implied_recipe_is_shown_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "Qwen/Qwen3-0.6B", "--set", "engine.tp=2"]) == 0
    assert capsys.readouterr().out == "version: 1\nmodel:\n  id: Qwen/Qwen3-0.6B\nengine:\n  tp: 2\n"


def test_what_is_wrong_is_told_as_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", str(write(tmp_path, HEAD + "engin: {}\n"))]) == 2
    assert "did you mean `engine`?" in capsys.readouterr().err
    assert main(["config", "a/b", "--explain", "--json"]) == 2


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_recipe_reads_back_in_every_profile(file: Path, tmp_path: Path) -> None:
    for profile in (None, *load_recipe(file).all_profiles):
        first = load_recipe(file, (), (profile,) if profile else ())
        again = tmp_path / file.name
        again.write_text(to_yaml(first))
        assert load_recipe(again).recipe == first.recipe
        assert merged_data(load_recipe(again)) == merged_data(first)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
TRICKY = st.sampled_from(
    [
        "off",
        "1e3",
        "0x10",
        "0o7",
        ".5",
        "1_000",
        "12:30",
        "~",
        "=",
        "<<",
        "- a",
        "#x",
        "a: b",
        " x",
        "x ",
        "|",
        "\n\n",
        "a\n b \n",
        "$",
        "${x}",
        "!append",
        "é\u2028\x85\x1b",
    ]
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**63, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | TRICKY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | TRICKY, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), PLAIN, min_size=1))
def test_what_is_written_is_read_as_it_was(data: dict[str, Any]) -> None:
    document = parse(dump_yaml(data), "x")
    assert not document.problems
    assert _same(document.data, data)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b
