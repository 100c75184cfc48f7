"""The reference of docs/recipes.md: made from the schema, whole, with defaults and examples that are what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploykit.recipe import check_files, reference
from deploykit.recipe.guide import GUIDE, SECTIONS
from deploykit.recipe.honoured import HONOURED
from deploykit.recipe.jsonschema import file_schema
from deploykit.recipe.loader import parse
from deploykit.recipe.schema import parse_duration, parse_size
from deploykit.recipe.tree import Node, lookup, root, sections_by_key

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipes.md"
ENTRIES = [(section, entry) for section, entries in reference.sections() for entry in entries]


def test_the_page_is_what_the_schema_generates() -> None:
    page = PAGE.read_text()
    assert reference.filled(page) == page, (
        "run `python -m deploykit.recipe.reference --write docs/recipes.md`"
    )


def test_a_page_that_differs_is_seen_and_mended(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text().replace("| `session_len` |", "| `sesion_len` |"))
    assert reference.filled(page.read_text()) != page.read_text()
    command = [sys.executable, "-m", "deploykit.recipe.reference", "--write", str(page)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert page.read_text() == PAGE.read_text()
    with pytest.raises(ValueError, match="keys: begin"):
        reference.filled("# Recipes\n")


def test_every_key_of_the_schema_is_there_once() -> None:
    def count(node: Node) -> int:
        found = 0
        for option in node.alternatives:
            for key in option.keys:
                child = option.child(key)
                assert child is not None
                item = child.solid.child(0) if child.is_list else child
                found += 1 + (count(item) if item is not None else 0)
        return found

    paths = [entry.path for _, entry in ENTRIES]
    assert len(set(paths)) == len(paths)
    language = set(file_schema()["properties"]) - set(root().keys) | {"x-*"}
    assert {path for path in paths if path in language} == language == {"extends", "vars", "profiles", "x-*"}
    assert len(paths) - len(language) == count(root())
    names = {path.rpartition(".")[2].removesuffix("[]") for path in paths} - language
    assert names == set(sections_by_key()) - language


def test_the_guide_has_every_key_and_no_other() -> None:
    assert set(GUIDE) == {entry.path for _, entry in ENTRIES}
    assert set(SECTIONS) <= {section for section, _ in ENTRIES}
    assert set(HONOURED) <= set(GUIDE)
    for _, entry in ENTRIES:
        assert entry.about, entry.path


@pytest.mark.parametrize(("section", "entry"), ENTRIES, ids=[entry.path for _, entry in ENTRIES])
def test_an_example_is_a_recipe_when_it_is_put_in(
    section: str, entry: reference.Entry, tmp_path: Path
) -> None:
    (tmp_path / "_base").mkdir()
    (tmp_path / "_base" / "chat.yaml").write_text("chat: {template: chatml}\n")
    example = parse(entry.example, "example")
    assert not example.problems
    data: dict[str, Any] = {"version": 1, "model": {"id": "a/b"}}
    if section.endswith("[]"):
        kind = entry.path.removeprefix(f"{section}.").partition(".")[0]
        item = {kind: parse(GUIDE[f"{section}.{kind}"].example, "x").data, **example.data}
        if kind == "pypi":
            item = {
                key: parse(GUIDE[f"{section}.pypi{key}"].example, "x").data
                for key in ("", ".file", ".sha256")
            }
            item = {key.lstrip(".") or "pypi": value for key, value in item.items()}
        example.data = {section.rpartition(".")[2].removesuffix("[]"): [item]}
        section = section.rpartition(".")[0]
    inner = data
    for key in section.split(".") if section else ():
        inner = inner.setdefault(key, {})
    if section == "model" and set(example.data) & {"path", "sources"}:
        inner.clear()
    inner.update(example.data)
    file = tmp_path / "recipe.yaml"
    file.write_text(_yaml(data))
    assert check_files([file]) == []


def _yaml(data: Any) -> str:
    import json

    return json.dumps(data)  # YAML 1.2 holds it as it is


@pytest.mark.parametrize(
    "entry",
    [e for section, e in ENTRIES if not section.endswith("[]") and e.default not in ("required", "–")],
    ids=lambda entry: entry.path,
)
def test_a_default_is_the_schemas_as_a_recipe_writes_it(entry: reference.Entry) -> None:
    *path, key = entry.path.split(".")
    section = lookup(tuple(path))
    assert section is not None
    schema = section.keys[key]
    if entry.path == "name":
        assert (entry.default, schema["default"]) == ("the file's name", None)
        return
    value = parse(f"x: {entry.default}", "x").data["x"]
    if "default" not in schema:
        assert value == {}
    elif isinstance(schema["default"], int | float) and isinstance(value, str):
        assert schema["default"] in (_number(parse_size, value), _number(parse_duration, value))
    else:
        assert value == schema["default"]


def _number(read: Any, text: str) -> Any:
    try:
        return read(text)
    except ValueError:
        return None


def test_one_key_can_be_looked_up() -> None:
    found = reference.entry("engine.cache.quant_policy")
    assert found is not None
    assert (found.default, found.example) == ("none", "quant_policy: int8")
    assert "`native`" in found.engines
    assert reference.entry("engine.no_such_key") is None
