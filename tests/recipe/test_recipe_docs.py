"""docs/recipes.md says what is so: every key, every default, and errors as they print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from deploykit.recipe import RecipeError, load_recipe, recipe_from_data
from deploykit.recipe.loader import parse
from deploykit.recipe.schema import parse_duration, parse_size
from deploykit.recipe.tree import Node, lookup

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text()
SECTIONS = [
    "",
    "model",
    "engine",
    "engine.cache",
    "chat",
    "chat.defaults",
    "server",
    "server.limits",
    "server.restart",
]


def section(path: str) -> Node:
    node = lookup(tuple(path.split(".")) if path else ())
    assert node is not None
    return node


def rows(path: str) -> dict[str, str]:
    """Key -> default, from the first table under the section's heading."""
    heading = f"### `{path}`\n" if path else "### Top level\n"
    table = PAGE.split(heading)[1].split("\n| key")[1].split("\n\n")[0]
    return dict(re.findall(r"^\| `([a-z0-9_]+)` \| ([^|]*?) \|", table, re.MULTILINE))


@pytest.mark.parametrize("path", SECTIONS)
def test_every_key_of_a_section_is_in_its_table_with_its_default(path: str) -> None:
    node, table = section(path), rows(path)
    assert list(table) == list(node.keys)
    for key, written in table.items():
        child = node.child(key)
        assert child is not None
        schema = node.keys[key]
        if key in node.required:
            assert written == "required"
        elif child.is_section:
            assert written == "`{}`"
        elif key != "name":
            value: Any = parse(f"x: {written.strip('`')}", "x").data["x"]
            if isinstance(schema["default"], int | float) and isinstance(value, str):
                value = parse_size(value) if value.endswith("B") else parse_duration(value)
            assert value == schema["default"], key


def test_every_section_is_on_the_page() -> None:
    def sections(node: Node, path: str) -> list[str]:
        found = [path]
        for key in node.keys:
            child = node.child(key)
            if child is not None and child.is_section:
                found += sections(child, f"{path}.{key}" if path else key)
        return found

    assert sections(section(""), "") == SECTIONS


def test_every_key_of_a_source_is_on_the_page() -> None:
    table = PAGE.split("A source is one of three kinds")[1].split("###")[0]
    union = lookup(("model", "sources", 0))
    assert union is not None
    for branch in union.alternatives:
        for key in branch.keys:
            alone = key == branch.required[0]
            row = f"| `{key}` |" if alone else f"| `{key}` (with `{branch.required[0]}`) |"
            assert row in table


def test_every_code_is_on_the_page() -> None:
    codes = set()
    for file in (ROOT / "deploykit" / "recipe").glob("*.py"):
        for code in re.findall(r'"([a-z]+(?:-[a-z0-9]+)+)"', file.read_text()):
            codes.add(code)
    codes -= {"utf-8-sig", "utf-8"}
    listed = set(re.findall(r"`([a-z0-9-]+)`", PAGE.split("codes:\n")[1].split("\n## ")[0]))
    assert codes <= listed
    assert listed - codes <= {"conflict", "--set"}


def test_the_commands_with_set_work() -> None:
    recipe = ROOT / "recipes" / "smollm2-135m.yaml"
    block = PAGE.split("```console\n")[1].split("```")[0]
    for line in block.splitlines():
        sets = [quoted or plain for quoted, plain in re.findall(r"--set (?:'([^']*)'|(\S+))", line)]
        assert sets
        load_recipe(recipe, sets)


def test_the_shortest_recipe_is_valid() -> None:
    text = PAGE.split("```yaml\n")[1].split("```")[0]
    assert (
        recipe_from_data(parse(text, "x").data, "x").recipe.model.id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    )


def test_the_errors_print_as_the_page_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = PAGE.split("<!-- example: errors -->")[1]
    recipe = example.split("```yaml\n")[1].split("```")[0]
    shown = example.split("```text\n")[1].split("```")[0]
    (tmp_path / "recipe.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yaml", ["server.port=http"])
    assert f"$ deploykit validate recipe.yaml --set server.port=http\n{caught.value}\n" == shown
