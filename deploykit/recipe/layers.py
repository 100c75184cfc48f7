"""What is laid over a recipe from outside: `DEPLOYKIT_SET__a__b=c` in the environment, and `--set a.b=c`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .diagnostics import Diagnostic, KeyPath, Place, Source, Span, diagnostic, dotted, printable, shown
from .loader import APPEND, RESET, Document, holds_secret, parse
from .merge import append, forget
from .plain import ENVIRONMENT_PREFIX as PREFIX
from .tree import lookup

ENVIRONMENT = "environment"  # the name of a Source
SET = "--set"

_MAX_PARTS = 16
_EXAMPLES = {
    SET: "write `--set engine.session_len=4096`",
    ENVIRONMENT: f"write `{PREFIX}engine__session_len=4096`",
}
_OF_FILES = {
    "extends": "`extends` stands in a recipe's file alone",
    "profiles": "a profile is chosen by `--profile NAME`, and written in a recipe's file alone",
}


def apply_sets(document: Document, sets: Iterable[str]) -> None:
    """Lay each `key=value` over `document`, in order; what can't be laid is added to its problems.

    Values are read as YAML. Where the schema asks for a text, anything else is taken as it stands, because a
    shell has eaten the quotes that would say so.
    """
    for text in sets:
        source = Source(SET, (text,), is_file=False)
        if problem := _check_set(source, text):
            document.problems.append(problem)
            continue
        key, _, value = text.partition("=")
        path, spans = _set_path(key)
        _Assignment(document, source, path, spans, value, len(key) + 2).apply()


def apply_environment(document: Document, environ: Mapping[str, str]) -> None:
    """Lay the variables `DEPLOYKIT_SET__a__b` over `document`, in the order of their names, as `--set` does.

    The case of a name doesn't matter, since not every system keeps it.
    """
    seen: dict[KeyPath, str] = {}
    for name in sorted(name for name in environ if name[: len(PREFIX)].upper() == PREFIX):
        value = environ[name]
        source = Source(ENVIRONMENT, (f"{name}={value}",), is_file=False)
        found = _environment_path(document, name)
        if isinstance(found, str):
            problem = _bad(source, found, 0, len(name), _EXAMPLES[ENVIRONMENT])
        elif (first := seen.setdefault(found[0], name)) != name:
            what = f"`{printable(first[:80])}` sets the same key: their names differ in case alone"
            problem = _bad(source, what, 0, len(name), "unset one of them")
        elif not _is_text(name + value):
            problem = _bad(source, f"`{printable(name[:80])}` isn't valid UTF-8", 0, len(name), None)
        else:
            _Assignment(document, source, *found, value, len(name) + 2).apply()
            continue
        document.problems.append(problem)


def _check_set(source: Source, text: str) -> Diagnostic | None:
    key, sign, _ = text.partition("=")
    example = _EXAMPLES[SET]
    if not _is_text(text):
        return _bad(source, "`--set` isn't valid UTF-8", 0, len(key), None)
    if not sign:
        return _bad(source, "`--set` has no `=`", 0, len(key), example)
    if not re.fullmatch(r"[\w-]+(?:\.[\w-]+|\[[0-9]{1,6}\])*", key):
        return _bad(source, f"`{printable(key[:64])}` is no key", 0, len(key), example)
    if key.count(".") + key.count("[") > _MAX_PARTS:
        return _bad(source, f"the key has more than {_MAX_PARTS} parts", 0, len(key), None)
    return None


def _set_path(key: str) -> tuple[KeyPath, list[Span]]:
    """`a.b[0]` or `a.b.0`; a number is an index where the schema has a list."""
    segments: list[str | int] = []
    spans: list[Span] = []
    for match in re.finditer(r"\[([0-9]+)\]|[\w-]+", key):
        segments.append(int(match[1]) if match[1] else _segment(match[0], tuple(segments)))
        spans.append(Span(1, match.start() + 1, len(match[0])))
    return tuple(segments), spans


def _environment_path(document: Document, name: str) -> tuple[KeyPath, list[Span]] | str:
    """The key that a variable names, `a__b__0`; or what is wrong with it."""
    parts = name[len(PREFIX) :].split("__")
    if not all(re.fullmatch(r"[\w-]+", part) for part in parts) or len(parts) > _MAX_PARTS:
        return f"`{printable(name[:80])}` names no key"
    segments: list[str | int] = []
    spans: list[Span] = []
    col = len(PREFIX) + 1
    for part in parts:
        at = tuple(segments)
        segments.append(_segment(part.lower(), at) if at != ("vars",) else _variable(document, part))
        spans.append(Span(1, col, len(part)))
        col += len(part) + 2
    return tuple(segments), spans


def _segment(text: str, at: KeyPath) -> str | int:
    node = lookup(at)
    is_item = text.isascii() and text.isdigit() and node is not None and node.is_list
    return int(text) if is_item else text


def _variable(document: Document, name: str) -> str:
    """A variable of the recipe by its name in any case."""
    known = document.data.get("vars") if isinstance(document.data, dict) else None
    names = known if isinstance(known, dict) else {}
    return name if name in names else next((key for key in names if key.lower() == name.lower()), name)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad(source: Source, message: str, col: int, length: int, help: str | None) -> Diagnostic:
    return diagnostic("bad-set", message, source, Span(1, col + 1, max(1, length)), help)


class _Assignment:
    """One value for one key. `start` is the column of the value in the line of `source`."""

    def __init__(
        self, document: Document, source: Source, path: KeyPath, spans: Sequence[Span], value: str, start: int
    ) -> None:
        self._document = document
        self._source = source
        self._path = path
        self._spans = spans
        self._value = value
        self._whole = Span(1, start, len(value))

    def apply(self) -> None:
        document, path = self._document, self._path
        if holds_secret(path):
            document.secrets.append(Place(self._source, None, self._whole))
        if path[0] in _OF_FILES:
            document.problems.append(self._problem(_OF_FILES[str(path[0])], 0, None))
            return
        found = self._read()
        if found is None:
            return
        value, places, tag = found
        if problem := self._store(value, places, tag):
            document.problems.append(problem)

    def _read(self) -> tuple[Any, dict[KeyPath, Place], str | None] | None:
        """The value, the places of what is inside it, and its tag; None if it can't be read."""
        node = lookup(self._path)
        part = parse(self._value, self._source.name, is_file=False, overlay=True)
        if node is not None and node.is_text:
            if isinstance(part.data, str) and not part.problems:
                return part.data, {}, None
            is_null = node.nullable and not part.problems and part.data is None
            return (None if is_null else self._value), {}, part.tags.get(()) if is_null else None
        self._document.secrets += [self._moved(place) for place in part.secrets]
        for problem in part.problems:
            inside = "\n" not in self._value
            start = self._whole.col - 1
            span = Span(1, start + (problem.col or 1), problem.length) if inside else self._whole
            moved = diagnostic(problem.code, problem.message, self._source, span, problem.help)
            self._document.problems.append(moved)
        if part.problems:
            return None
        inner = {self._path + path: self._moved(place) for path, place in part.places.items() if path}
        return part.data, inner, part.tags.get(())

    def _moved(self, place: Place) -> Place:
        """A place in the value as a place in the whole text."""

        def moved(span: Span) -> Span:
            at = Span(1, self._whole.col - 1 + span.col, span.length)
            return at if "\n" not in self._value else self._whole

        return Place(self._source, moved(place.key) if place.key else None, moved(place.value))

    def _store(self, value: Any, places: dict[KeyPath, Place], tag: str | None) -> Diagnostic | None:
        document, path = self._document, self._path
        if document.data is None:
            document.data = {}
        parent: Any = document.data
        for number, segment in enumerate(path):
            if isinstance(segment, int):
                if not isinstance(parent, list) or segment >= len(parent):
                    have = f"{len(parent)} entries" if isinstance(parent, list) else shown(parent)
                    message = f"there is no `{dotted(path[: number + 1])}`"
                    return self._problem(message, number, f"`{dotted(path[:number])}` has {have}")
            elif not isinstance(parent, dict):
                what = f"`{dotted(path[:number])}` is {shown(parent)}, not a section"
                return self._problem(what, number, "set the whole of it")
            if number == len(path) - 1:
                break
            child = parent[segment] if isinstance(segment, int) else parent.get(segment)
            if child is None:
                child = parent[segment] = {}
                document.places.setdefault(path[: number + 1], self._place(number))
            parent = child
        last: Any = path[-1]
        old = parent.get(last) if isinstance(parent, dict) else parent[last]
        if tag == APPEND and old is not None:
            append(document, old, value, path, {**places, path: self._place(-1)})
            return None
        forget(document, old, path)
        if tag == RESET and value is None and isinstance(parent, dict):
            parent.pop(last, None)
            return None
        parent[last] = value
        document.places[path] = self._place(-1)
        document.places.update(places)
        return None

    def _place(self, number: int) -> Place:
        return Place(self._source, self._spans[number], self._whole)

    def _problem(self, message: str, number: int, help: str | None) -> Diagnostic:
        start = self._spans[number].col - 1
        return _bad(self._source, message, start, self._whole.col - 2 - start, help)
