"""What the references of a merged recipe stand for: variables of the recipe and of the environment."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .diagnostics import (
    MAX_ERRORS,
    KeyPath,
    Place,
    Related,
    Span,
    diagnostic,
    dotted,
    printable,
    related,
    shown,
)
from .document import Derived, Document
from .loader import holds_secret
from .references import VARIABLE, Malformed, Parts, Reference, escaped, parse_references
from .scalars import NumberTooLarge, Scalar, resolve_plain
from .tree import lookup

MAX_TEXT = 1 << 20  # characters that references may grow to, all together
_MAX_CHAIN = 32  # variables that stand for one another

_SECRET = re.compile(
    r"(?:^|_)(?:(?:API|ACCESS|PRIVATE|SECRET)_?KEYS?|PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?)(?:_|$)",
    re.IGNORECASE,
)


@dataclass(slots=True)
class _Value:
    """What a text with references stands for. `exact` is the text of the environment before it was read as YAML."""

    value: Scalar
    exact: str | None = None
    origins: tuple[str, ...] = ()  # `env X`, `vars.y`
    secret: bool = False
    written: str = ""  # as a recipe can hold it: the references of secrets stay
    variable: Place | None = None  # where the variable that it is as a whole is set


class _Unset(Exception):
    """A reference has no value; the reason is already reported where it stands."""


def resolve(document: Document, environ: Mapping[str, str]) -> None:
    """Put values in place of the references in a merged document, and take its `vars` away.

    Only what files say has references; `--set` and the like are taken as they stand. What can't be resolved is left as
    it is, with a problem, and its path is in `document.unknown`.
    """
    _Resolver(document, environ).run()


class _Resolver:
    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._room = MAX_TEXT
        self._reported = 0
        self._vars: dict[str, Any] = {}
        self._known: dict[str, _Value | None] = {}
        self._open: list[str] = []

    def run(self) -> None:
        document = self._document
        given = document.data.pop("vars", {})
        if isinstance(given, dict):
            self._vars = given
        elif given is not None or ("vars",) in document.places:
            what = f"`vars` must be a section of variables by their names, got {shown(given)}"
            self._report("wrong-type", what, ("vars",), None, "for example `vars: {ctx: 8192}`")
        for name in self._vars:
            if VARIABLE.fullmatch(name):
                self._variable(name)
                continue
            what = f"`{dotted(('vars', name))}` is no name of a variable"
            help = "a name is letters, digits, `_` and `-`, and doesn't start with a digit"
            self._report("invalid-value", what, ("vars", name), None, help, at_key=True)
        document.data = self._walk(document.data, ())

    def _walk(self, value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: self._walk(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._walk(inner, (*path, number)) for number, inner in enumerate(value)]
        if not isinstance(value, str) or "$" not in value:
            return value
        place = self._document.places.get(path)
        return value if place is None or not place.source.is_file else self._text(value, path)

    def _text(self, text: str, path: KeyPath) -> Scalar:
        """The value of a text of the recipe."""
        try:
            found = self._evaluate(text, path)
        except _Unset:
            self._document.unknown.add(path)
            return text
        if found.origins:
            derived = Derived(found.origins, found.secret, found.written, found.variable)
            self._document.derived[path] = derived
        node = lookup(path) if found.exact is not None and not isinstance(found.value, str) else None
        if node is not None and node.is_text:
            return found.exact
        return found.value

    def _variable(self, name: str) -> _Value | None:
        """The value of a variable that is defined; None where it has none, which is reported."""
        if name in self._known:
            return self._known[name]
        path: KeyPath = ("vars", name)
        value = self._vars[name]
        found: _Value | None = None
        if isinstance(value, dict | list):
            what = f"`{dotted(path)}` must be a text, a number, true, false or null, got {shown(value)}"
            help = "an anchor (`&name`, `*name`) stands for a section or a list"
            self._report("wrong-type", what, path, None, help)
        elif not isinstance(value, str) or not self._in_file(path):
            secret = isinstance(value, str) and holds_secret(path)
            found = _Value(value, secret=secret, written="***" if secret else escaped(_as_text(value)))
        else:
            self._open.append(name)
            try:
                found = self._evaluate(value, path)
            except _Unset:
                self._document.unknown.add(path)
            finally:
                self._open.pop()
        if found is not None:
            found.variable = self._document.places.get(path)
        self._known[name] = found
        return found

    def _in_file(self, path: KeyPath) -> bool:
        place = self._document.places.get(path)
        return place is not None and place.source.is_file

    def _evaluate(self, text: str, path: KeyPath) -> _Value:
        """What a text stands for. Raises _Unset where something in it has no value."""
        if "$" not in text:
            secret = holds_secret(path)
            return _Value(text, secret=secret, written="***" if secret else text)
        try:
            parts = parse_references(text)
        except Malformed as wrong:
            before = text[: wrong.start].count(wrong.raw)
            self._report("bad-reference", wrong.what, path, wrong.raw, wrong.help, before=before)
            raise _Unset from None
        return self._value(parts, path, typed=False)

    def _value(self, parts: Parts, path: KeyPath, *, typed: bool) -> _Value:
        """`typed` reads a text without references as YAML does: what stands after `:-`."""
        if len(parts) == 1 and isinstance(parts[0], Reference):
            return self._of(parts[0], path)
        if typed and all(isinstance(part, str) for part in parts):
            text = "".join(part for part in parts if isinstance(part, str))
            return _Value(_plain(text), text, written=escaped(text))
        pieces: list[str] = []
        written: list[str] = []
        origins: dict[str, None] = {}
        secret = False
        failed = False
        for piece in parts:
            if isinstance(piece, str):
                pieces.append(piece)
                written.append(escaped(piece))
                continue
            try:
                found = self._of(piece, path)
            except _Unset:
                failed = True  # the others are checked too
                continue
            if found.value is None and found.exact is None:
                what = f"`{printable(piece.raw[:64])}` is null, which can't be a part of a text"
                self._report("wrong-type", what, path, piece.raw, "give it a value, or let it stand alone")
                failed = True
                continue
            pieces.append(found.exact if found.exact is not None else _as_text(found.value))
            self._spend(len(pieces[-1]), path, piece.raw)
            written.append(found.written)
            origins.update(dict.fromkeys(found.origins))
            secret = secret or found.secret
        if failed:
            raise _Unset
        return _Value("".join(pieces), None, tuple(origins), secret, "".join(written))

    def _of(self, reference: Reference, path: KeyPath) -> _Value:
        if self._reported > MAX_ERRORS:
            raise _Unset  # enough to begin with; the rest is not looked at
        return self._of_vars(reference, path) if reference.kind == "vars" else self._of_env(reference, path)

    def _of_vars(self, reference: Reference, path: KeyPath) -> _Value:
        name = reference.name
        if name not in self._vars:
            close = difflib.get_close_matches(name, self._vars, 1)
            listed = ", ".join(printable(known[:32]) for known in list(self._vars)[:20])
            help = (
                f"add it under `vars`, which has {listed}"
                if listed
                else "add it under `vars:` at the top level"
            )
            help = f"did you mean `${{vars.{printable(close[0])}}}`?" if close else help
            if not self._document.whole:
                raise _Unset  # it may stand in the file that could not be read
            self._report("unset-variable", f"there is no variable `{name}`", path, reference.raw, help)
            raise _Unset
        if name in self._open:
            way = " → ".join(f"`{step}`" for step in [*self._open[self._open.index(name) :], name])
            what = f"the variable `{name}` stands for itself: {way}"
            self._report("reference-cycle", what, path, reference.raw, "write one of them out")
            raise _Unset
        if len(self._open) >= _MAX_CHAIN and name not in self._known:
            what = f"more than {_MAX_CHAIN} variables stand for one another"
            self._report("too-deep", what, path, reference.raw, "write one of them out")
            raise _Unset
        found = self._variable(name)
        if found is None:
            raise _Unset
        origins = tuple(dict.fromkeys((f"vars.{name}", *found.origins)))
        return _Value(found.value, found.exact, origins, found.secret, found.written, found.variable)

    def _of_env(self, reference: Reference, path: KeyPath) -> _Value:
        name = reference.name
        text = self._environ.get(name)
        if reference.default is not None and not text:
            found = self._value(reference.default, path, typed=True)
            origins = tuple(dict.fromkeys((f"default of env {name}", *found.origins)))
            return _Value(found.value, found.exact, origins, found.secret, found.written, found.variable)
        if text is None or (reference.message is not None and not text):
            self._unset(reference, path, "is empty" if text == "" else "is not set")
            raise _Unset
        try:
            text.encode()
        except UnicodeEncodeError:
            what = f"the environment variable `{name}` isn't valid UTF-8"
            self._report("unset-variable", what, path, reference.raw)
            raise _Unset from None
        self._spend(len(text), path, reference.raw)
        secret = _SECRET.search(name) is not None
        written = f"${{env.{name}}}" if secret else escaped(text)
        return _Value(_plain(text), text, (f"env {name}",), secret, written)

    def _unset(self, reference: Reference, path: KeyPath, state: str) -> None:
        name = reference.name
        what = f"the environment variable `{name}` {state}"
        if reference.message:
            what += f": {printable(reference.message[:200])}"
        close = difflib.get_close_matches(name, self._environ, 1, 0.85)
        help = f"set it, or give a default: `${{env.{name}:-…}}`"
        if close and reference.message is None:
            help = f"did you mean `${{env.{close[0]}}}`? else {help}"
        self._report("unset-variable", what, path, reference.raw, help)

    def _spend(self, length: int, path: KeyPath, raw: str) -> None:
        self._room -= length
        if self._room < 0:
            if self._room + length >= 0:  # once
                self._report("too-large", "references make the recipe larger than 1 MiB", path, raw)
            raise _Unset

    def _report(
        self,
        code: str,
        message: str,
        path: KeyPath,
        raw: str | None,
        help: str | None = None,
        *,
        at_key: bool = False,
        before: int = 0,
    ) -> None:
        self._reported += 1
        place = self._document.places.get(path)
        if place is None:
            self._document.problems.append(diagnostic(code, message, self._document.source, help=help))
            return
        span = place.key if place.key and (at_key or place.value.length == 0) else place.value
        if raw is not None:
            span = _find(place, raw, before) or span
        self._document.problems.append(diagnostic(code, message, place.source, span, help))


def _find(place: Place, raw: str, before: int) -> Span | None:
    """Where a piece of a value is written, after as many like it: in its own line, or in those of a block below it."""
    source, start = place.source, place.value
    for line in range(start.line, min(start.line + 200, len(source.lines)) + 1):
        col = source.lines[line - 1].find(raw, start.col - 1 if line == start.line else 0)
        while col >= 0 and before:
            before -= 1
            col = source.lines[line - 1].find(raw, col + len(raw))
        if col >= 0:
            return Span(line, col + 1, len(raw))
        if line == start.line and start.col - 1 + start.length < len(source.lines[line - 1]):
            return None  # the value ends in this line
    return None


def _plain(text: str) -> Scalar:
    try:
        return resolve_plain(text)
    except NumberTooLarge:
        return text


def _as_text(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def related_variable(derived: Derived | None) -> tuple[Related, ...]:
    """The place of the variable that a value is, as another place of an error."""
    if derived is None or derived.variable is None:
        return ()
    name = next((origin for origin in derived.origins if origin.startswith("vars.")), None)
    place = derived.variable
    return () if name is None else (related(f"`{name}` is set here", place.source, place.value),)
