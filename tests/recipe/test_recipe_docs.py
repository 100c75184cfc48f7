"""docs/recipes.md and its neighbours say what is so: codes, commands, and errors as they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploykit.recipe import RecipeError, coming_from, load_recipe, recipe_from_data
from deploykit.recipe.codes import CODES
from deploykit.recipe.dump import to_yaml
from deploykit.recipe.examples import MARK, code_list
from deploykit.recipe.loader import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text()


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


def test_the_language_page_shows_what_its_recipes_come_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "language.md").read_text()

    def example(name: str) -> str:
        return page.split(f"<!-- example: {name} -->")[1].split("```")[1].partition("\n")[2]

    for name in ("base.yaml", "recipe.yaml"):
        (tmp_path / name).write_text(example(name))
        assert f"cat > {name} <<'EOF'\n{example(name)}EOF\n" in page
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_PORT", raising=False)
    assert to_yaml(load_recipe("recipe.yaml", (), ("long", "laptop"))) == example("merged")
    monkeypatch.setenv("DEPLOYKIT_SET__ENGINE__SESION_LEN", "4096")
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yaml")
    assert example("environment").partition("\n")[2] == f"{caught.value}\n"
