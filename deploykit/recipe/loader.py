"""YAML text to plain data and the place of every key and value.

The parser's events are read here rather than composed by PyYAML, so that nothing is built before it is known to
be small: nesting, aliases and the number of nodes are bounded, and no tag can make an object.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from .diagnostics import (
    KeyPath,
    Place,
    Related,
    Source,
    Span,
    diagnostic,
    printable,
    related,
    shown,
)
from .document import Document as Document
from .scalars import NumberTooLarge, Scalar, resolve_plain
from .syntax import explain_syntax

MAX_NODES = 10_000  # with aliases written out
MAX_DEPTH = 32

APPEND, RESET = "!append", "!reset"

# libyaml's line breaks: its marks count lines by these.
LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_NOT_TEXT = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"
_TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "null": type(None),
}
_SECRET_KEY = re.compile(r"(?:^|.*[_-])(?:api[_-]?keys?|password|passwd|secret|token)", re.IGNORECASE)
_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class _Node:
    value: Scalar | list[tuple[Span, _Node]] | dict[str, tuple[Span, _Node]]
    span: Span
    height: int = 1
    size: int = 1
    tag: str | None = None  # APPEND or RESET
    refused: dict[str, _Node] = field(default_factory=dict)  # entries that aren't in the data, by key


class _Refused(Exception):
    """Reading can't go on; the reason is already among the problems."""


def parse(text: str, name: str, *, is_file: bool = True, rank: int = 0, overlay: bool = False) -> Document:
    """Parse one YAML document. Problems that leave the rest readable are collected, not raised.

    An `overlay` may say by `!append` and `!reset` how its values are laid over others; elsewhere no tag is allowed.
    """
    source = Source(name, tuple(LINE_BREAK.split(text)), is_file, rank)
    document = Document(source)
    if bad := _NOT_TEXT.search(text):
        span = span_at(text, bad.start())
        what = f"the control character {printable(bad[0])} can't stand in a recipe"
        fix = "remove it, or write it as an escape in a double-quoted text"
        document.problems.append(diagnostic("not-text", what, source, span, fix))
        return document
    builder = _Builder(text, document, overlay)
    try:
        root = builder.read()
    except _Refused:
        return document
    except yaml.YAMLError as error:
        document.problems.append(explain_syntax(error, source))
        return document
    finally:
        document.nodes = builder.nodes
    if root is not None:
        document.data = _flatten(root, (), None, document, False)
    return document


class _Builder:
    def __init__(self, text: str, document: Document, overlay: bool) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_Loader))
        self._source = document.source
        self._problems = document.problems
        self._anchors: dict[str, _Node | None] = {}  # None while the node is being read
        self._overlay = overlay
        self.nodes = 0

    def read(self) -> _Node | None:
        """The root of the first document, or None where there is none."""
        root: _Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    what = "a recipe is one YAML document, and here a second one starts"
                    fix = "put each recipe into a file of its own"
                    self._refuse("several-documents", what, self._span(event), fix)
                root = self._node(next(self._events), 1)
        return root

    def _node(self, event: Any, depth: int) -> _Node:
        span = self._span(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), span, depth)
        self._count(1, depth, span)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(self._scalar(event, span), span, tag=self._laying(event.tag))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(event, span, depth)
        else:
            node = self._mapping(event, span, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, name: str, span: Span, depth: int) -> _Node:
        if name not in self._anchors:
            close = difflib.get_close_matches(name[:64], self._anchors, 1)
            fix = (
                f"did you mean `*{printable(close[0])}`?"
                if close
                else "anchors are written `&name` before a value"
            )
            self._refuse("unknown-alias", f"there is no anchor `&{printable(name[:64])}` above", span, fix)
        node = self._anchors[name]
        if node is None:
            self._refuse(
                "recursive-alias", f"`*{printable(name[:64])}` stands inside the value it names", span
            )
        self._count(node.size, depth + node.height - 1, span)
        return node

    def _sequence(self, event: Any, span: Span, depth: int) -> _Node:
        self._check_tag(event.tag, "seq", span)
        items: list[tuple[Span, _Node]] = []
        node = _Node(items, span, tag=self._laying(event.tag))
        for item in self._events:
            if isinstance(item, yaml.SequenceEndEvent):
                self._close(node, event, item)
                break
            child = self._node(item, depth + 1)
            items.append((self._span(item), child))
            self._grow(node, child)
        return node

    def _mapping(self, event: Any, span: Span, depth: int) -> _Node:
        self._check_tag(event.tag, "map", span)
        entries: dict[str, tuple[Span, _Node]] = {}
        node = _Node(entries, span, tag=self._laying(event.tag))
        for item in self._events:
            if isinstance(item, yaml.MappingEndEvent):
                self._close(node, event, item)
                break
            key_span = self._span(item)
            key = self._node(item, depth + 1)
            child = self._node(next(self._events), depth + 1)
            self._grow(node, child)
            name = key.value if isinstance(key.value, str) else ""
            if isinstance(item, yaml.ScalarEvent) and item.value == "<<" and not item.style:
                fix = "write the keys out, or alias a whole value: `limits: *limits`"
                self._report("merge-key", "the merge key `<<` isn't part of YAML 1.2", key_span, fix)
            elif not isinstance(key.value, str):
                self._key_not_text(key.value, key_span)
            elif self._overlay and "${" in key.value:
                what = f"a key can't hold a reference, as `{printable(name[:64])}` does"
                self._report("bad-reference", what, key_span, "write the key out; references go into values")
            elif key.tag is not None:
                self._report(
                    "yaml-tag",
                    f"`{key.tag}` goes before a value, not a key",
                    key_span,
                    f"write `{printable(name[:64])}: {key.tag} …`",
                )
            elif name in entries:
                first = entries[name][0]
                what = f"the key `{printable(name[:64])}` stands twice in this section"
                help = f"it is first given on line {first.line}; keep one"
                there = related("first given here", self._source, first)
                self._report("duplicate-key", what, key_span, help, (there,))
            else:
                entries[name] = (key_span, child)
                continue
            node.refused[name] = child
        return node

    def _scalar(self, event: Any, span: Span) -> Scalar:
        text: str = event.value
        if "\0" in text:
            self._report("not-text", "a text can't hold the character \\0", span)
            return text.replace("\0", "")
        tag: str | None = event.tag
        if tag in ("!", _TAG + "str") or (event.style and tag == self._laying(tag)):
            return text
        try:
            value = resolve_plain(text)
        except NumberTooLarge:
            self._report("out-of-range", "a number of more than 64 bits", span)
            return 0
        if tag == APPEND and self._overlay:
            help = f"write `{APPEND} [{shown(text).split(maxsplit=2)[-1]}]`" if value is not None else None
            self._report("yaml-tag", f"`{APPEND}` goes before a list, and this is {shown(value)}", span, help)
        elif tag is not None and tag != self._laying(tag):
            short = tag.removeprefix(_TAG)
            if short not in _TYPES or tag == short:
                self._bad_tag(tag, span)
            elif not isinstance(value, _TYPES[short]) or (short != "bool" and isinstance(value, bool)):
                self._report("yaml-tag", f"{shown(value)} is no `!!{short}`", span, "remove the tag")
        return value

    def _check_tag(self, tag: str | None, own: str, span: Span) -> None:
        if tag == APPEND and own == "map" and self._overlay:
            help = "remove the tag: a section is merged key by key by itself"
            self._report("yaml-tag", f"`{APPEND}` goes before a list, and this is a section", span, help)
        elif tag not in (None, "!", _TAG + own, self._laying(tag)):
            self._bad_tag(str(tag), span)

    def _laying(self, tag: str | None) -> str | None:
        """A tag that says how a value is laid over another."""
        return tag if self._overlay and tag in (APPEND, RESET) else None

    def _bad_tag(self, tag: str, span: Span) -> None:
        short = "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag
        what = f"the tag `{printable(short[:64])}` means nothing in a recipe"
        help = "remove the tag; a recipe holds plain values only"
        if self._overlay and (close := difflib.get_close_matches(short[:64], (APPEND, RESET), 1)):
            help = f"did you mean `{close[0]}`?"
        self._report("yaml-tag", what, span, help)

    def _key_not_text(self, value: Any, span: Span) -> None:
        if isinstance(value, list | dict):
            what, fix = "a key must be a text, not a list or a section", "write `key: value`"
        else:
            what = f"a key must be a text, and this is {shown(value)}"
            fix = f'put it in quotes: `"{shown(value).split()[-1]}"`'
        self._report("key-not-text", what, span, fix)

    def _count(self, nodes: int, depth: int, span: Span) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            self._refuse("too-large", f"more than {MAX_NODES} values, with aliases written out", span)
        if depth > MAX_DEPTH:
            self._refuse("too-deep", f"nested more than {MAX_DEPTH} levels deep", span)

    @staticmethod
    def _grow(node: _Node, child: _Node) -> None:
        node.size += child.size
        node.height = max(node.height, child.height + 1)

    def _close(self, node: _Node, start: Any, end: Any) -> None:
        # A block has no span of its own worth pointing at (length 0: point at its key); `[…]` and `{…}` have.
        same_line = start.start_mark.line == end.end_mark.line
        length = end.end_mark.column - start.start_mark.column if start.flow_style and same_line else 0
        node.span = Span(node.span.line, node.span.col, length)

    def _span(self, event: Any) -> Span:
        start, end = event.start_mark, event.end_mark
        if start.line == end.line:
            length = end.column - start.column
        else:
            length = len(self._source.lines[start.line]) - start.column
        return Span(start.line + 1, start.column + 1, length)

    def _report(
        self,
        code: str,
        message: str,
        span: Span,
        help: str | None = None,
        related: tuple[Related, ...] = (),
    ) -> None:
        self._problems.append(diagnostic(code, message, self._source, span, help, related=related))

    def _refuse(self, code: str, message: str, span: Span, help: str | None = None) -> NoReturn:
        self._report(code, message, span, help)
        raise _Refused


def _flatten(node: _Node, path: KeyPath, key: Span | None, document: Document, secret: bool) -> Any:
    """Fresh data for a node (an alias gets its own copy), and the places of all below it."""
    secret = secret or holds_secret(path[-1:])
    hidden = secret and isinstance(node.value, str) and not _names_a_secret(path, node.value)
    place = document.places[path] = Place(document.source, key, node.span)
    if hidden:
        document.secrets.append(place)
    if node.tag is not None:
        if any(isinstance(segment, int) for segment in path):
            what = f"`{node.tag}` can't stand inside a list: a list is laid over another as a whole"
            document.problems.append(
                diagnostic("yaml-tag", what, document.source, node.span, "remove the tag")
            )
        else:
            document.tags[path] = node.tag
    for name, refused in node.refused.items():
        _flatten(refused, (*path, name), None, Document(document.source, secrets=document.secrets), secret)
    if isinstance(node.value, dict):
        return {k: _flatten(n, (*path, k), s, document, secret) for k, (s, n) in node.value.items()}
    if isinstance(node.value, list):
        return [_flatten(n, (*path, i), None, document, secret) for i, (_, n) in enumerate(node.value)]
    return node.value


def holds_secret(path: KeyPath) -> bool:
    """Whether a key on the way is one that people put credentials under."""
    return any(isinstance(segment, str) and _SECRET_KEY.fullmatch(segment) for segment in path)


def _names_a_secret(path: KeyPath, value: str) -> bool:
    return path[-1] == "file" or (path[-1] == "env" and _ENV_NAME.fullmatch(value) is not None)


def span_at(text: str, index: int) -> Span:
    """The place of one character."""
    before = LINE_BREAK.split(text[:index])
    return Span(len(before), len(before[-1]) + 1, 1)
