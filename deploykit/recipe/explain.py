"""pydantic's errors as diagnostics at the place in the file, one for each mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from . import suggest
from .cross import conflicts
from .diagnostics import (
    MAX_ERRORS,
    Diagnostic,
    KeyPath,
    Place,
    Related,
    Span,
    diagnostic,
    dotted,
    related,
    shown,
)
from .document import copied
from .loader import Document, holds_secret
from .schema import Recipe
from .tree import Node, lookup, root
from .variables import related_variable

_RANGE = frozenset(
    (
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "finite_number",
        "too_long",
        "too_short",
    )
)
_ORIGINS: set[KeyPath] = {("model", "id"), ("model", "path"), ("model", "sources")}
_ROUNDS = 8  # in which values of misplaced keys are checked
_TYPE_ENDS = ("_type", "int_from_float", "none_required")


class _Found(NamedTuple):
    """An error at a path of the data, before it has a text."""

    path: KeyPath  # where it is an error
    kind: str  # missing-key | unknown-key | wrong-type | out-of-range | invalid-value | conflict
    node: Node  # for missing-key and unknown-key the section, else the schema of the value
    message: str | None = None
    help: str | None = None
    others: tuple[KeyPath, ...] = ()  # what a conflict is with
    rename: str | None = None
    written: KeyPath | None = None  # where it stands, if that is elsewhere

    @property
    def at(self) -> KeyPath:
        return self.path if self.written is None else self.written


def explain(error: ValidationError | None, document: Document) -> list[Diagnostic]:
    """Every error of a recipe in the order of the text, at most MAX_ERRORS; the rest is counted in the document.

    `error` is what pydantic found, None where it found nothing; keys that contradict each other are found here.
    """
    data, places = document.data, document.places
    found: dict[tuple[KeyPath, str], _Found] = {}
    for one in _of_models(error, data):
        found.setdefault((one.at, one.kind), one)
    for one in _of_misplaced([one for one in found.values() if one.kind == "unknown-key"], data):
        found.setdefault((one.at, one.kind), one)
    for c in conflicts(data):
        found[(c.path, c.code)] = _Found(c.path, c.code, root(), c.message, c.help, c.others)
    kept = [one for one in found.values() if _is_known(one, document)]
    ordered = sorted(kept, key=lambda one: _order(one, places))
    result = [_diagnostic(one, document) for one in ordered[:MAX_ERRORS]]
    document.untold += max(0, len(ordered) - MAX_ERRORS)
    return result


def _of_models(error: ValidationError | None, data: Any) -> Iterator[_Found]:
    if error is not None:
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            yield from _find(item["type"], tuple(item["loc"]), data)


def _of_misplaced(unknown: list[_Found], data: Any) -> Iterator[_Found]:
    """What is wrong with the values of keys that are misspelt or stand in the wrong section: said in the same pass.

    They are checked as what they are meant to be, and shown where they stand.
    """
    homes = [(one.path, None if one.message else _suggestion(one, data).home) for one in unknown[:MAX_ERRORS]]
    waiting = [(path, home) for path, home in homes if home is not None and lookup(home) is not None]
    for _ in range(_ROUNDS):
        tried, moved, later = copied(data), cast(dict[KeyPath, KeyPath], {}), []
        for path, home in waiting:
            # Of two that are the same key, or a section and a key of it, one at a time.
            if any(home[: len(other)] == other[: len(home)] for other in moved):
                later.append((path, home))
            elif _put(tried, home, _value(data, path)):
                moved[home] = path
        waiting = later
        if not moved:
            return
        try:
            Recipe.model_validate(tried)
        except ValidationError as error:
            for one in _of_models(error, tried):
                for home, path in moved.items():
                    if one.path[: len(home)] == home:
                        yield one._replace(written=path + one.path[len(home) :])


def _put(data: Any, path: KeyPath, value: Any) -> bool:
    """Put `value` at a path; False where something on the way to it is no section."""
    for step in path[:-1]:
        data = data.setdefault(step, {}) if isinstance(data, dict) else None
    if not isinstance(data, dict):
        return False
    data[path[-1]] = copied(value)
    return True


def _suggestion(one: _Found, data: Any) -> suggest.Suggestion:
    value = None if holds_secret(one.path) else _value(data, one.at)
    return suggest.for_key(one.path, list(one.node.keys), value)


def _is_known(one: _Found, document: Document) -> bool:
    """Whether it is an error whatever stands in a file, or in a variable, that could not be read."""
    if not document.whole and one.kind == "missing-key":
        return False
    return not any(
        path[:length] in document.unknown for path in (one.at, *one.others) for length in range(len(path) + 1)
    )


def _find(kind: str, loc: KeyPath, data: Any) -> list[_Found]:
    """Walk the schema along pydantic's location, leaving out the segments that name a branch of a union."""
    node = section = root()
    value, path, steps = data, cast(KeyPath, ()), list(loc)
    while steps:
        if node.is_section_union:
            name = steps.pop(0)
            keys = [k for k in value if isinstance(k, str)] if isinstance(value, dict) else []
            chosen = node.branch(keys)
            if len(chosen) != 1:
                return [_no_branch(path, node, chosen, value)]
            if chosen[0].name != name:
                return []
            node = chosen[0]
            continue
        child = node.child(steps[0])
        if child is None:
            break
        step = steps.pop(0)
        path, value, section, node = (*path, step), _get(value, step), node, child
    if kind == "missing":
        return [_Found(path, "missing-key", section)]
    if kind == "extra_forbidden" and steps:
        return [_Found((*path, steps[0]), "unknown-key", node)]
    if kind == "value_error" and path == ("model",):
        return []  # `conflicts` says it, also where other errors keep pydantic from looking
    return [_Found(path, _kind(kind, value, node), node)]


def _kind(kind: str, value: Any, node: Node) -> str:
    if value is None:
        return "wrong-type"
    if kind in _RANGE:
        return "out-of-range"
    if len(node.alternatives) > 1:  # `auto` or a number: pydantic tells of both, and one of them is meant
        return (
            "out-of-range"
            if type(value) is int
            else "invalid-value"
            if isinstance(value, str)
            else "wrong-type"
        )
    return "wrong-type" if kind.endswith(_TYPE_ENDS) else "invalid-value"


def _no_branch(path: KeyPath, union: Node, chosen: list[Node], value: Any) -> _Found:
    """An entry that is no section, or has the keys of none or of several of the kinds there are."""
    if not isinstance(value, dict):
        return _Found(path, "wrong-type", union)
    where = dotted(path)
    if chosen:
        names = [option.required[0] for option in chosen]
        both = " and ".join(f"`{name}`" for name in names)
        last = max(names, key=list(value).index)
        message = f"`{where}` has {both}, which don't go together"
        others = tuple((*path, name) for name in names if name != last)
        return _Found((*path, last), "conflict", union, message, "make them two entries, or keep one", others)
    names = [option.required[0] for option in union.alternatives]
    message = f"`{where}` must be {union.expected}"
    for key in value:
        if close := difflib.get_close_matches(str(key)[:64].lower(), names, 2, 0.5):
            return _Found((*path, key), "unknown-key", union, f"unknown key `{dotted((*path, key))}`",
                          f"did you mean `{close[0]}`?", rename=close[0] if len(close) == 1 else None)  # fmt: skip
    return _Found((*path, names[0]), "missing-key", union, message, f"add one of {', '.join(names)}")


def _diagnostic(one: _Found, document: Document) -> Diagnostic:
    data, places, fallback = document.data, document.places, document.source
    path, where = one.path, dotted(one.path)
    at_key = one.kind in ("unknown-key", "missing-key", "conflict")
    place, span = _locate(one.at, places, at_key=at_key)
    source = place.source if place else fallback
    if one.message is not None:
        there = tuple(other for path in one.others if (other := _elsewhere(path, places)))
        help = one.help
        below = next((path for path in one.others if _is_below(places.get(path), place)), None)
        if below is not None and {below, path} <= _ORIGINS:
            help = f"take the one below away: `{below[-1]}: !reset`; or keep only that"
        return diagnostic(one.kind, one.message, source, span, help, related=there, rename=one.rename)
    if one.kind == "unknown-key":
        fix = _suggestion(one, data)
        return diagnostic(one.kind, f"unknown key `{where}`", source, span, fix.help, rename=fix.rename)
    if one.kind == "missing-key":
        child = one.node.child(path[-1])
        form = child.expected.removesuffix(" that isn't empty") if child else ""
        what = "`version: 1`" if path == ("version",) else f"`{path[-1]}:` with {form}"
        return diagnostic(one.kind, f"missing key `{where}`", source, span, f"add {what}")
    value = _value(data, one.at)
    derived = document.derived.get(one.at)
    is_secret = holds_secret(path) or holds_secret(one.at) or (derived is not None and derived.secret)
    got = "" if isinstance(value, str) and is_secret else f", got {shown(value)}"
    if derived is not None and derived.origins[-1].startswith("env "):
        got += f" from the environment variable {derived.origins[-1].removeprefix('env ')}"
    message = (
        f"`{where}` must be {one.node.expected}{got}"
        if path
        else f"a recipe must be {one.node.expected}{got}"
    )
    hidden = derived is not None and derived.secret
    words = None if hidden else suggest.for_value(path, value, one.node)
    return diagnostic(one.kind, message, source, span, words, related=related_variable(derived))


def _is_below(other: Place | None, place: Place | None) -> bool:
    """Whether a value is of another layer than the one of a file that is pointed at."""
    if other is None or place is None or not (other.source.is_file and place.source.is_file):
        return False
    return (other.source.name, other.profile) != (place.source.name, place.profile)


def _elsewhere(path: KeyPath, places: Mapping[KeyPath, Place]) -> Related | None:
    """The other key of a conflict, if it is written."""
    place = places.get(path)
    if place is None:
        return None
    return related(f"`{dotted(path)}` is set here", place.source, place.key or place.value)


def _order(one: _Found, places: Mapping[KeyPath, Place]) -> tuple[int, int, int, int, str]:
    """Errors of the files first, by position; then those of `--set`."""
    at_key = one.kind in ("unknown-key", "missing-key", "conflict")
    place, span = _locate(one.at, places, at_key=at_key)
    if place is None or span is None:
        return (0, 0, 0, 0, dotted(one.path))
    source = place.source
    return (0 if source.is_file else 1, source.rank, span.line, span.col, dotted(one.path))


def _locate(
    path: KeyPath, places: Mapping[KeyPath, Place], *, at_key: bool
) -> tuple[Place | None, Span | None]:
    """Where to point: at the key or the value; for something that isn't written, at what it should stand in."""
    for length in range(len(path), -1, -1):
        place = places.get(path[:length])
        if place is None:
            continue
        if place.key is not None and (at_key or length < len(path) or place.value.length == 0):
            return place, place.key
        return place, place.value
    return None, None


def _get(value: Any, step: str | int) -> Any:
    try:
        return value[step]
    except (KeyError, IndexError, TypeError):
        return None


def _value(data: Any, path: KeyPath) -> Any:
    for step in path:
        data = _get(data, step)
    return data
