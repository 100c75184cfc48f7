"""A recipe and what it extends as one text that needs neither: the recipe's own text, and the keys that it inherits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploykit.errors import DeploykitError
from deploykit.recipe import LoadedRecipe, check_recipe, load_recipe
from deploykit.recipe.compose import Layers, read_layers
from deploykit.recipe.diagnostics import KeyPath
from deploykit.recipe.files import read_file
from deploykit.recipe.loader import APPEND, RESET, Document
from deploykit.recipe.merge import overlay
from deploykit.recipe.schema import is_python_file, is_template_file
from deploykit.shipped.edit import drop, put, put_before


@dataclass(frozen=True)
class Flat:
    """`text` means what the recipe means, from a file in a folder where `files` lie as they lie beside the recipe."""

    text: str
    extended: tuple[Path, ...]  # what was written into it
    files: tuple[Path, ...]  # relative to the recipe: descriptions of checkpoints, templates


def flatten(path: Path) -> Flat:
    """Raises RecipeError for a recipe with mistakes, and DeploykitError for one that can't be written as one text."""
    check_recipe(path, every_profile=True)
    loaded = load_recipe(path)
    main, own = read_file(path), read_file(path)
    layers = read_layers(main, path)
    extended = [Path(layer.source.name) for layer in layers.files[:-1]]
    text = "\n".join(own.source.lines)
    if extended:
        text = drop(text, "extends")
        below = _inherited(layers, path)
        for at, value in _missing(own, below.data, ()):
            if own.tags.get(at) == APPEND:
                text = _added(text, at, value, own)
                continue
            text = put(text, at, value, f"from {_names(below, at)}")
    return Flat(
        text if text.endswith("\n") else text + "\n", tuple(dict.fromkeys(extended)), _files(loaded, path)
    )


def _inherited(layers: Layers, path: Path) -> Document:
    """What the recipe's text doesn't say itself, with paths as they are written from the recipe's folder."""
    below = Document(layers.files[-1].source, {})
    for layer in layers.files[:-1]:
        overlay(below, layer)
    for name, parts in layers.profiles.items():
        profile = Document(below.source, {})
        for part in parts:
            if part.source.name != str(path):
                overlay(profile, part)
        if profile.data:
            below.data.setdefault("profiles", {})[name] = profile.data
            for at, place in profile.places.items():
                below.places[("profiles", name, *at)] = place
    for at, place in below.places.items():
        value, section, key = _at(below.data, at)
        if isinstance(value, str) and _is_path(at, value):
            if value.startswith("~") or Path(value).is_absolute():
                continue  # the same from every folder
            section[key] = os.path.relpath(Path(place.source.name).parent / value, path.parent)
    return below


def _at(data: Any, at: KeyPath) -> tuple[Any, Any, Any]:
    """(the value, what holds it, under which key); None where there is nothing any more."""
    section: Any = None
    for key in at:
        section = data
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None, None, None
    return data, section, at[-1] if at else None


def _is_path(at: KeyPath, value: str) -> bool:
    """Whether a key holds a path that is relative to the recipe's file."""
    key = at[2:] if at[:1] == ("profiles",) else at
    if key in (("model", "path"), ("model", "facts"), ("model", "download_dir")):
        return True
    if key == ("chat", "template"):
        return is_template_file(value)
    if key == ("chat", "python"):
        return is_python_file(value)
    return (
        key[:2] in (("model", "sources"), ("server", "api_keys"))
        and key[-1] in ("path", "file")
        and (key[1] == "api_keys" or key[-1] == "path")
    )


def _missing(own: Document, below: Any, at: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """What is to be written into the recipe's own text: whole sections where it has nothing of them."""
    section, _, _ = _at(own.data, at)
    for key, value in below.items():
        path = (*at, key)
        tag = own.tags.get(path)
        if key not in section or (tag == APPEND and value):
            yield path, value
        elif isinstance(value, dict) and isinstance(section[key], dict) and tag != RESET:
            yield from _missing(own, value, path)


def _added(text: str, at: KeyPath, items: list[Any], own: Document) -> str:
    """The text with a list that adds to another one written as both together."""
    try:
        return put_before(text, at, items)
    except ValueError:
        raise DeploykitError(
            f"the recipe adds to `{'.'.join(map(str, at))}` of what it extends",
            where=own.source.name,
            why=f"a list is written out where {APPEND} is followed by `[…]` or by an item a line",
            fix="write the list in one of these two ways, or copy the recipe and what it extends as files",
        ) from None


def _names(below: Document, at: KeyPath) -> str:
    """The files that a value is from: `_base/chat.yaml`."""
    names = [
        os.path.relpath(place.source.name, Path(below.source.name).parent)
        for path, place in below.places.items()
        if path[: len(at)] == at
    ]
    return ", ".join(dict.fromkeys(names))


def _files(loaded: LoadedRecipe, path: Path) -> tuple[Path, ...]:
    """Files beside the recipe that it and its profiles name."""
    found = []
    for profiles in ((), *((name,) for name in loaded.all_profiles)):
        recipe = load_recipe(path, profiles=profiles).recipe
        named = (recipe.model.facts, recipe.chat.template, recipe.chat.python)
        found += [Path(name) for name in named if name and Path(name).is_absolute()]
    return tuple(
        dict.fromkeys(file.relative_to(path.parent) for file in found if file.is_relative_to(path.parent))
    )
