"""From a file, or from data, to a recipe that is whole and valid."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .check import Overrides, examine, file_name
from .diagnostics import Diagnostic, RecipeError, Source
from .document import copied
from .files import decode, read_file
from .loader import Document
from .plain import slug

if TYPE_CHECKING:
    from .lock import Lock
    from .schema import Recipe


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A valid recipe. `path` is its file, None where it was implied; the paths inside `recipe` are absolute.

    `profiles` are those that are laid over it, `all_profiles` those that there are. `merged` is what was merged from
    all files, profiles, the environment and `--set`, with the place of every value.
    """

    recipe: Recipe
    path: Path | None
    name: str
    profiles: tuple[str, ...] = ()
    all_profiles: tuple[str, ...] = ()
    merged: Document = field(default_factory=lambda: Document(Source("")), repr=False, compare=False)
    lock: Lock | None = None  # what its model must be (`lock.with_lock`)
    sets: tuple[str, ...] = ()  # what was given as `--set`


def load_recipe(
    path: str | os.PathLike[str], sets: Sequence[str] = (), profiles: Sequence[str] = ()
) -> LoadedRecipe:
    """Read a recipe file with its `profiles` and then `sets` laid over it.

    Raises RecipeError with everything that is wrong.
    """
    path = Path(path)
    return _load(read_file(path), Overrides(sets, profiles), path, file_name(path))


def recipe_from_data(
    data: dict[str, Any], name: str, sets: Sequence[str] = (), profiles: Sequence[str] = ()
) -> LoadedRecipe:
    """A recipe that no file holds, as for `deploykit up FOLDER`. Relative paths are those of the working folder."""
    main = Document(Source(name), data=copied(data))
    return _load(main, Overrides(sets, profiles), None, slug(name) or "model")


def recipe_from_bytes(raw: bytes, path: str | os.PathLike[str], profiles: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe that `raw` would be as the file `path`, which need not be there yet. Raises RecipeError."""
    path = Path(path)
    return _load(decode(raw, str(path)), Overrides((), profiles), path, file_name(path))


def check_recipe(
    path: str | os.PathLike[str],
    sets: Sequence[str] = (),
    profiles: Sequence[str] = (),
    *,
    every_profile: bool = False,
) -> str:
    """The name of a recipe that is valid; with `every_profile`, with each of its other profiles by itself too.

    Quicker than `load_recipe`, since no object is made of it. Raises RecipeError with everything that is wrong.
    """
    path = Path(path)
    over = Overrides(sets, profiles, every_profile=every_profile)
    found = examine(read_file(path), over, path)
    return str(found.merged.data.get("name") or file_name(path))


def check_files(
    paths: Iterable[str | os.PathLike[str]],
    sets: Sequence[str] = (),
    profiles: Sequence[str] = (),
    *,
    every_profile: bool = False,
) -> list[Diagnostic]:
    """Every error of every file, in the order of the files."""
    found: list[Diagnostic] = []
    for path in paths:
        try:
            check_recipe(path, sets, profiles, every_profile=every_profile)
        except RecipeError as error:
            found += error.diagnostics
    return found


def check_bytes(raw: bytes, name: str, over: Overrides | None = None) -> list[Diagnostic]:
    """Every error of a recipe that is read already; `name` stands for its file."""
    try:
        examine(decode(raw, name), over or Overrides(), Path(name))
    except RecipeError as error:
        return list(error.diagnostics)
    return []


def _load(main: Document, over: Overrides, path: Path | None, name: str) -> LoadedRecipe:
    found = examine(main, over, path)
    recipe = found.model()
    from .paths import with_absolute_paths

    folder = Path.cwd() if path is None else path.parent
    return LoadedRecipe(
        with_absolute_paths(recipe, found.merged, folder),
        path,
        recipe.name or name,
        found.profiles,
        tuple(found.layers.profiles),
        found.merged,
        sets=tuple(over.sets),
    )
