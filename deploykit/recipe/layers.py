"""What is laid over a recipe: `--set a.b=c`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .diagnostics import Diagnostic, KeyPath, Place, Source, Span, diagnostic, dotted, printable, shown
from .loader import Document, holds_secret, parse
from .tree import lookup


def apply_sets(document: Document, sets: Iterable[str]) -> None:
    """Lay each `key=value` over `document`, in order; what can't be laid is added to its problems.

    Values are read as YAML. Where the schema asks for a text, anything else is taken as it stands, because a
    shell has eaten the quotes that would say so.
    """
    for text in sets:
        _Set(document, text).apply()


class _Set:
    def __init__(self, document: Document, text: str) -> None:
        self._document = document
        self._source = Source("--set", (text,), is_file=False)
        self._text = text
        self._key, _, self._value = text.partition("=")

    def apply(self) -> None:
        if problem := self._check():
            self._document.problems.append(problem)
            return
        path, spans = self._path()
        whole = Span(1, len(self._key) + 2, len(self._value))
        if holds_secret(path):
            self._document.secrets.append(Place(self._source, None, whole))
        found = self._read(path, whole)
        if found is None:
            return
        value, places = found
        if problem := self._store(path, spans, value):
            self._document.problems.append(problem)
            return
        own = self._document.places
        for old in [known for known in own if known[: len(path)] == path]:
            del own[old]
        for length in range(1, len(path) + 1):
            own.setdefault(path[:length], Place(self._source, spans[length - 1], whole))
        own.update(places)

    def _check(self) -> Diagnostic | None:
        try:
            self._text.encode()
        except UnicodeEncodeError:
            return self._bad("`--set` isn't valid UTF-8", 0, None)
        if "=" not in self._text:
            return self._bad("`--set` has no `=`", 0, "write `--set engine.session_len=4096`")
        if not re.fullmatch(r"[\w-]+(?:\.[\w-]+|\[[0-9]{1,6}\])*", self._key):
            return self._bad(
                f"`{printable(self._key[:64])}` is no key", 0, "write `--set engine.session_len=4096`"
            )
        if self._key.count(".") + self._key.count("[") > 16:
            return self._bad("the key has more than 16 parts", 0, None)
        return None

    def _path(self) -> tuple[KeyPath, list[Span]]:
        """`a.b[0]` or `a.b.0`; a number is an index where the schema has a list."""
        segments: list[str | int] = []
        spans: list[Span] = []
        for match in re.finditer(r"\[([0-9]+)\]|[\w-]+", self._key):
            index = match[1] or (match[0] if match[0].isascii() and match[0].isdigit() else None)
            node = lookup(tuple(segments))
            is_item = index is not None and (match[1] is not None or (node is not None and node.is_list))
            segments.append(int(index) if is_item and index is not None else match[0])
            spans.append(Span(1, match.start() + 1, len(match[0])))
        return tuple(segments), spans

    def _read(self, path: KeyPath, whole: Span) -> tuple[Any, dict[KeyPath, Place]] | None:
        """The value, and the places of what is inside it; None if it can't be read."""
        node = lookup(path)
        part = parse(self._value, "--set", is_file=False)
        if node is not None and node.is_text:
            if isinstance(part.data, str) and not part.problems:
                return part.data, {}
            is_null = node.nullable and not part.problems and part.data is None
            return (None if is_null else self._value), {}
        self._document.secrets += [self._moved(place, whole) for place in part.secrets]
        for problem in part.problems:
            inside = "\n" not in self._value
            span = Span(1, whole.col - 1 + (problem.col or 1), problem.length) if inside else whole
            self._document.problems.append(
                diagnostic(problem.code, problem.message, self._source, span, problem.help)
            )
        if part.problems:
            return None
        return part.data, {
            path + inner: self._moved(place, whole) for inner, place in part.places.items() if inner
        }

    def _moved(self, place: Place, whole: Span) -> Place:
        """A place in the value as a place in the whole argument."""

        def moved(span: Span) -> Span:
            return Span(1, whole.col - 1 + span.col, span.length) if "\n" not in self._value else whole

        return Place(self._source, moved(place.key) if place.key else None, moved(place.value))

    def _store(self, path: KeyPath, spans: list[Span], value: Any) -> Diagnostic | None:
        document = self._document
        if document.data is None:
            document.data = {}
        parent: Any = document.data
        for number, segment in enumerate(path):
            last = number == len(path) - 1
            if isinstance(segment, int):
                if not isinstance(parent, list) or segment >= len(parent):
                    have = f"{len(parent)} entries" if isinstance(parent, list) else shown(parent)
                    message = f"there is no `{dotted(path[: number + 1])}`"
                    return self._bad(message, spans[number].col - 1, f"`{dotted(path[:number])}` has {have}")
            elif not isinstance(parent, dict):
                what = f"`{dotted(path[:number])}` is {shown(parent)}, not a section"
                return self._bad(what, spans[number].col - 1, "set the whole of it")
            if last:
                parent[segment] = value
                return None
            child = parent[segment] if isinstance(segment, int) else parent.get(segment)
            if child is None:
                child = parent[segment] = {}
            parent = child
        return None

    def _bad(self, message: str, col: int, help: str | None) -> Diagnostic:
        return diagnostic(
            "bad-set", message, self._source, Span(1, col + 1, max(1, len(self._key) - col)), help
        )
