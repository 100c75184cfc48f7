"""A folder of recipe files from one text: what the tests of the recipe language write down."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from deploykit.recipe import RecipeError, load_recipe

HEAD = "version: 1\nmodel: {id: a/b}\n"
_FILE = re.compile(r"^--- (\S+)\n", re.MULTILINE)


def write(folder: Path, text: str) -> Path:
    """Write every `--- NAME` of a text into the folder; the first one, or else the whole text, is the recipe."""
    parts = _FILE.split(text)
    files = dict(zip(parts[1::2], parts[2::2], strict=True)) if len(parts) > 1 else {"recipe.yaml": text}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder / next(iter(files))


def loaded(folder: Path, text: str, *sets: str, profiles: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a recipe sets, as plain data."""
    recipe = load_recipe(write(folder, text), sets, profiles).recipe
    return recipe.model_dump(exclude_unset=True)


def errors(
    folder: Path, text: str, *sets: str, profiles: tuple[str, ...] = ()
) -> list[tuple[str, str, int, int]]:
    """(file, code, line, col) of everything that is wrong with a recipe; 0 where there is no line."""
    try:
        load_recipe(write(folder, text), sets, profiles)
    except RecipeError as error:
        return [
            (d.file.removeprefix(f"{folder}/"), d.code, d.line or 0, d.col or 0) for d in error.diagnostics
        ]
    return []
