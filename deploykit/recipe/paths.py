"""The values of a recipe that are paths, and what each is relative to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .diagnostics import KeyPath
from .loader import Document
from .schema import FileSecret, PathSource, Recipe, is_python_file, is_template_file


def path_values(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Every value that names a file or a folder of this machine, and where it stands."""
    for key in ("path", "download_dir", "facts"):
        if (text := getattr(recipe.model, key)) is not None:
            yield ("model", key), text
    for number, source in enumerate(recipe.model.sources or ()):
        if isinstance(source, PathSource):
            yield ("model", "sources", number, "path"), source.path
    if is_template_file(recipe.chat.template):
        yield ("chat", "template"), recipe.chat.template
    if recipe.chat.python is not None and is_python_file(recipe.chat.python):
        yield ("chat", "python"), recipe.chat.python
    for number, secret in enumerate(recipe.server.api_keys):
        if isinstance(secret, FileSecret):
            yield ("server", "api_keys", number, "file"), secret.file


def with_absolute_paths(recipe: Recipe, document: Document, folder: Path) -> Recipe:
    """Paths as a file writes them are relative to that file; those of `--set` and the like to the working folder.

    `folder` is for what has no place: a recipe that no file holds.
    """
    absolute: dict[KeyPath, str] = {}
    for key, text in path_values(recipe):
        place = document.places.get(key)
        base = (
            folder
            if place is None
            else Path(place.source.name).parent
            if place.source.is_file
            else Path.cwd()
        )
        # Not pathlib's: symlinks are kept, and `~nobody` is no exception.
        absolute[key] = os.path.abspath(base / os.path.expanduser(text))  # noqa: PTH100, PTH111
    changed: Recipe = _changed(recipe, absolute) if absolute else recipe
    return changed


def _changed(value: Any, values: Mapping[KeyPath, Any]) -> Any:
    """A copy with other values at some paths; models are frozen."""
    if () in values:
        return values[()]
    below: dict[str | int, dict[KeyPath, Any]] = {}
    for path, new in values.items():
        below.setdefault(path[0], {})[path[1:]] = new
    if isinstance(value, BaseModel):
        return value.model_copy(
            update={str(key): _changed(getattr(value, str(key)), inner) for key, inner in below.items()}
        )
    return [_changed(item, below[number]) if number in below else item for number, item in enumerate(value)]
