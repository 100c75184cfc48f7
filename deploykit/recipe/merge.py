"""One document laid over another: sections merge key by key, everything else replaces what was there.

`!append` adds a list to the one below it; `!reset` takes away what is below, so that its own value stands alone, or
nothing where it has none. Every value keeps the place where it was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .diagnostics import KeyPath, Place, Source, diagnostic, dotted, related, shown
from .document import copied
from .loader import APPEND, RESET, Document


def overlay(base: Document, top: Document) -> None:
    """Lay the section that `top` is over `base`, which is changed. `top` is left as it is; they share no value."""
    if not isinstance(base.data, dict):
        base.data = {}
    place = top.places.get(())
    if place is not None and not place.profile:  # what a recipe lacks is no fault of its profile
        base.places[()] = place
    _merge(base, base.data, top, top.data, ())


def _merge(
    base: Document, below: dict[str, Any], top: Document, above: Mapping[str, Any], at: KeyPath
) -> None:
    for key, value in above.items():
        path = (*at, key)
        tag = top.tags.get(path)
        had = key in below
        if tag == RESET and value is None:
            forget(base, below.pop(key, None), path)
        elif tag == APPEND and had and below[key] is not None:
            append(base, below[key], value, path, top.places)
        elif isinstance(value, dict):
            if tag == RESET or not isinstance(below.get(key), dict):
                forget(base, below.get(key), path)
                below[key] = {}
            _put(base, path, top.places.get(path))
            _merge(base, below[key], top, value, path)
        else:
            forget(base, below.get(key), path)
            below[key] = copied(value)
            for inner in paths_of(value, path):
                _put(base, inner, top.places.get(inner))


def append(
    base: Document, below: Any, value: list[Any], path: KeyPath, places: Mapping[KeyPath, Place]
) -> None:
    """Add the items of `value`, whose places are in `places`, to the list `below`; a problem where it is none."""
    place, old = places.get(path), base.places.get(path)
    if not isinstance(below, list):
        what = f"`{APPEND}` adds to a list, and `{dotted(path)}` is {shown(below)} below it"
        there = (related("what it would be added to", old.source, old.key or old.value),) if old else ()
        source, span = (place.source, place.key or place.value) if place else (base.source, None)
        base.problems.append(
            diagnostic("conflict", what, source, span, "remove the tag to replace it", related=there)
        )
        return
    for number, item in enumerate(value):
        target = (*path, len(below))
        below.append(copied(item))
        for inner in paths_of(item, (*path, number)):
            _put(base, target + inner[len(path) + 1 :], places.get(inner))
    _put(base, path, place)


def forget(base: Document, value: Any, path: KeyPath) -> None:
    """Drop the places of a value that goes."""
    for inner in paths_of(value, path):
        base.places.pop(inner, None)


def paths_of(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The path of a value, and of everything inside it."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths_of(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from paths_of(inner, (*path, number))


def part(document: Document, path: KeyPath, profile: str = "") -> Document:
    """The section at a path of a document as a document of its own."""
    data: Any = document.data
    for step in path:
        data = data[step]
    depth = len(path)
    cut = Document(Source(document.source.name, document.source.lines, True, document.source.rank), data)
    for inner in paths_of(data, path):
        place = document.places.get(inner)
        if place is not None:
            cut.places[inner[depth:]] = Place(place.source, place.key, place.value, profile)
        if inner in document.tags:
            cut.tags[inner[depth:]] = document.tags[inner]
    return cut


def _put(base: Document, path: KeyPath, place: Place | None) -> None:
    if place is not None:
        base.places[path] = place
