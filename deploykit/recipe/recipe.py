"""From a file, or from data, to a recipe that is whole and valid."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .cross import conflicts
from .diagnostics import Diagnostic, RecipeError, Source, Span, diagnostic, shown
from .files import decode, read_file
from .loader import Document
from .mask import Mask
from .schema import FileSecret, PathSource, Recipe, is_python_file, is_template_file, slug


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A valid recipe. `path` is its file, None where it was implied; the paths inside `recipe` are absolute."""

    recipe: Recipe
    path: Path | None
    name: str


def load_recipe(path: str | os.PathLike[str], sets: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe file with `sets` laid over it. Raises RecipeError with everything that is wrong."""
    path = Path(path)
    document = read_file(path)
    return _finish(document, sets, path, _file_name(path))


def recipe_from_data(data: dict[str, Any], name: str, sets: Sequence[str] = ()) -> LoadedRecipe:
    """A recipe that no file holds, as for `deploykit up FOLDER`. Relative paths are those of the working folder."""
    return _finish(Document(Source(name), data=_copy(data)), sets, None, slug(name) or "model")


def check_files(paths: Iterable[str | os.PathLike[str]], sets: Sequence[str] = ()) -> list[Diagnostic]:
    """Every error of every file, in the order of the files."""
    found: list[Diagnostic] = []
    for path in paths:
        try:
            load_recipe(path, sets)
        except RecipeError as error:
            found += error.diagnostics
    return found


def check_bytes(raw: bytes, name: str, sets: Sequence[str] = ()) -> list[Diagnostic]:
    """Every error of a recipe that is read already; `name` stands for its file."""
    try:
        _finish(decode(raw, name), sets, Path(name), _file_name(Path(name)))
    except RecipeError as error:
        return list(error.diagnostics)
    return []


def _finish(document: Document, sets: Sequence[str], path: Path | None, name: str) -> LoadedRecipe:
    readable = document.data is not None or not document.problems
    if readable and (problem := _shape(document)):
        document.problems.append(problem)
        readable = False
    if not readable:
        raise _error(document)
    if sets:
        from .layers import apply_sets

        apply_sets(document, sets)
    invalid: ValidationError | None = None
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        invalid = error
    if invalid or any(conflicts(document.data)):
        from .explain import explain

        # What the loader refused stands in the data as a harmless value: it's told of once.
        told = {(p.file, p.line, p.col) for p in document.problems if p.line is not None}
        found = explain(invalid, document.data, document.places, document.source)
        document.problems += [p for p in found if (p.file, p.line, p.col) not in told]
    if invalid or document.problems:
        raise _error(document)
    folder = Path.cwd() if path is None else path.parent
    return LoadedRecipe(_resolved(recipe, document, folder), path, recipe.name or name)


def _shape(document: Document) -> Diagnostic | None:
    """A recipe is a section; anything else gets one error instead of one for each key it lacks."""
    data, source = document.data, document.source
    example = "a recipe starts with `version: 1` and a `model:` section"
    if data is None:
        return diagnostic("empty-recipe", "there is nothing in this recipe", source, help=example)
    if isinstance(data, dict):
        return None
    place = document.places[()]
    if isinstance(data, str) and ":" in data:
        example = "a key is followed by a colon and a space: `version: 1`"
    span = Span(place.value.line, place.value.col, max(1, place.value.length))
    return diagnostic(
        "not-a-recipe", f"a recipe is a section of keys, and this is {shown(data)}", source, span, example
    )


def _error(document: Document) -> RecipeError:
    """Everything that is wrong in the order of the text, with no credential in a quoted line."""
    mask = Mask(document)
    found: list[Diagnostic] = []
    for p in sorted(document.problems, key=_position):
        others = tuple(replace(r, snippet=mask.line(r.file, r.line, r.snippet)) for r in p.related)
        line = p.snippet if p.snippet is None else mask.line(p.file, p.line, p.snippet)
        found.append(replace(p, snippet=line, related=others))
    return RecipeError(found)


def _position(problem: Diagnostic) -> tuple[bool, bool, int, int]:
    from_set = problem.line is None and problem.snippet is not None
    return (
        problem.code == "too-many-errors",
        from_set,
        problem.line or 0,
        0 if from_set else problem.col or 0,
    )


def _resolved(recipe: Recipe, document: Document, folder: Path) -> Recipe:
    """Paths as a file writes them are relative to it; those of `--set` to the working folder."""

    def absolute(text: str, *key: str | int) -> str:
        place = document.places.get(key)
        base = folder if place is None or place.source.is_file else Path.cwd()
        # Not pathlib's: symlinks are kept, and `~nobody` is no exception.
        return os.path.abspath(base / os.path.expanduser(text))  # noqa: PTH100, PTH111

    model: dict[str, Any] = {}
    if recipe.model.path is not None:
        model["path"] = absolute(recipe.model.path, "model", "path")
    if recipe.model.sources is not None:
        model["sources"] = [
            s.model_copy(update={"path": absolute(s.path, "model", "sources", i, "path")})
            if isinstance(s, PathSource)
            else s
            for i, s in enumerate(recipe.model.sources)
        ]
    changes: dict[str, Any] = {}
    if model:
        changes["model"] = recipe.model.model_copy(update=model)
    chat: dict[str, str] = {}
    if is_template_file(recipe.chat.template):
        chat["template"] = absolute(recipe.chat.template, "chat", "template")
    if recipe.chat.python is not None and is_python_file(recipe.chat.python):
        chat["python"] = absolute(recipe.chat.python, "chat", "python")
    if chat:
        changes["chat"] = recipe.chat.model_copy(update=chat)
    if recipe.server.api_keys:
        keys = [
            k.model_copy(update={"file": absolute(k.file, "server", "api_keys", i, "file")})
            if isinstance(k, FileSecret)
            else k
            for i, k in enumerate(recipe.server.api_keys)
        ]
        changes["server"] = recipe.server.model_copy(update={"api_keys": keys})
    return recipe.model_copy(update=changes) if changes else recipe


def _copy(value: Any) -> Any:
    """A copy that `--set` may change."""
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _file_name(path: Path) -> str:
    """`recipes/SmolLM2.deploykit.yaml` -> `smollm2`."""
    return slug(path.name.removesuffix(".yml").removesuffix(".yaml").removesuffix(".deploykit")) or "recipe"
