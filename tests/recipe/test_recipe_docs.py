"""docs/recipes.md says what is so: every key, every default, and errors as they print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from deploykit.recipe import RecipeError, coming_from, load_recipe, recipe_from_data
from deploykit.recipe.codes import CODES
from deploykit.recipe.examples import MARK, code_list
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
    "chat.fields",
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
    table = PAGE.split("A source is one of four kinds")[1].split("###")[0]
    union = lookup(("model", "sources", 0))
    assert union is not None
    for branch in union.alternatives:
        for key in branch.keys:
            alone = key == branch.required[0]
            row = f"| `{key}` |" if alone else f"| `{key}` (with `{branch.required[0]}`) |"
            assert row in table


def test_every_code_is_on_the_page() -> None:
    listed = set(re.findall(r"`([a-z0-9-]+)`", PAGE.split("The codes:\n")[1].split("\n## ")[0]))
    assert listed - {"--set"} == set(CODES)


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


@pytest.mark.parametrize(
    ("page", "name", "sets"),
    [
        ("recipes.md", "errors", ["server.port=http"]),
        ("diagnostics.md", "conflict", ["engine.max_prefill_tokens=64"]),
    ],
)
def test_the_errors_print_as_the_page_shows_them(
    page: str, name: str, sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = (ROOT / "docs" / page).read_text().split(f"<!-- example: {name} -->")[1]
    recipe = example.split("```yaml\n")[1].split("```")[0]
    shown = example.split("```text\n")[1].split("```")[0]
    (tmp_path / "recipe.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yaml", sets)
    command = " ".join(["deploykit validate recipe.yaml", *(f"--set {s}" for s in sets)])
    assert f"$ {command}\n{caught.value}\n" == shown


def test_the_codes_of_the_diagnostics_page_are_generated() -> None:
    shown = (ROOT / "docs" / "diagnostics.md").read_text().partition(MARK)[2]
    assert shown == "\n" + code_list(), (
        "run `python -m deploykit.recipe.examples --write docs/diagnostics.md`"
    )


def test_the_page_for_those_who_come_from_elsewhere_is_generated() -> None:
    shown = (ROOT / "docs" / "coming-from.md").read_text()
    assert shown == coming_from.page(), (
        "run `python -m deploykit.recipe.coming_from --write docs/coming-from.md`"
    )
