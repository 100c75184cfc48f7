"""`${vars.x}` and `${env.X}`: how references are written in the texts of a recipe."""

from __future__ import annotations

import re
from typing import NamedTuple

from .diagnostics import printable

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
"""The name of a variable of a recipe."""

_MAX_NESTED = 8  # `${env.A:-${env.B:-…}}`
_ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BODY_END = re.compile(r"[{}:$]")
_STOP, _INNER_STOP = re.compile(r"\$"), re.compile(r"[$}]")


class Reference(NamedTuple):
    """`${kind.name}`, written as `raw`. With `:-`, `default` is used where nothing is set; `:?` says what to do."""

    kind: str  # vars | env
    name: str
    raw: str
    default: tuple[str | Reference, ...] | None = None
    message: str | None = None


Parts = tuple[str | Reference, ...]
"""A text: literal pieces and references."""


class Malformed(ValueError):
    """A text with a `$` that means nothing. `raw` is the piece of it, which starts at `start`."""

    def __init__(self, raw: str, start: int, what: str, help: str) -> None:
        super().__init__(what)
        self.raw, self.start, self.what, self.help = raw, start, what, help


def parse_references(text: str) -> Parts:
    """A text as literal pieces and references; `$$` is a `$`. Raises Malformed."""
    parts, _ = _parts(text, 0, 0)
    return parts


def _parts(text: str, at: int, depth: int) -> tuple[Parts, int]:
    """The pieces from `at` on, to the end or (inside of a reference) to its `}`, and where they end."""
    parts: list[str | Reference] = []
    literal: list[str] = []
    stop = _INNER_STOP if depth else _STOP
    while at < len(text) and not (depth and text[at] == "}"):
        if text.startswith("$$", at):
            literal.append("$")
            at += 2
        elif text.startswith("${", at):
            if literal:
                parts.append("".join(literal))
                literal = []
            reference, at = _reference(text, at, depth)
            parts.append(reference)
        else:
            found = stop.search(text, at + 1)
            end = found.start() if found else len(text)
            literal.append(text[at:end])
            at = end
    if literal:
        parts.append("".join(literal))
    return tuple(parts), at


def _reference(text: str, start: int, depth: int) -> tuple[Reference, int]:
    found = _BODY_END.search(text, start + 2)
    at = found.start() if found else len(text)
    body = text[start + 2 : at]
    close = text.find("}", at)
    raw = text[start : close + 1] if close >= 0 else text[start:]
    if depth >= _MAX_NESTED:
        raise Malformed(
            raw,
            start,
            f"references are nested more than {_MAX_NESTED} deep",
            "define a variable for the inner one",
        )
    kind, _, name = body.strip().partition(".")
    default: Parts | None = None
    message: str | None = None
    operator = text[at : at + 2]
    if operator == ":-":
        default, at = _parts(text, at + 2, depth + 1)
    elif operator == ":?":
        end = text.find("}", at)
        message, at = (text[at + 2 : end], end) if end >= 0 else ("", len(text))
    if at >= len(text):
        raise Malformed(
            raw.split("\n")[0],
            start,
            "this `${` is never closed",
            "close it with `}`, or write `$${` for the text itself",
        )
    written = text[start : at + 1]
    if text[at] != "}":
        what = f"`{printable(raw[:64])}` is no reference"
        raise Malformed(
            raw,
            start,
            what,
            "write `${vars.NAME}`, `${env.NAME}`, `${env.NAME:-default}`, `${env.NAME:?message}`",
        )
    if kind not in ("vars", "env") or not name:
        raise _unknown_kind(written, start, body.strip())
    if not (VARIABLE if kind == "vars" else _ENVIRONMENT).fullmatch(name):
        what = f"`{printable(name[:64])}` is no name of a variable"
        raise Malformed(
            written, start, what, "a name is letters, digits and `_`, and doesn't start with a digit"
        )
    if kind == "vars" and operator in (":-", ":?"):
        what = f"`{operator}` goes with `${{env.…}}`: a variable of the recipe has the value that `vars` gives it"
        raise Malformed(written, start, what, f"write `${{vars.{name}}}`, and the default under `vars`")
    return Reference(kind, name, written, default, message), at + 1


def _unknown_kind(raw: str, start: int, body: str) -> Malformed:
    what = f"`{printable(raw[:64])}` is neither a variable of the recipe nor of the environment"
    name = body.rpartition(".")[2]
    if _ENVIRONMENT.fullmatch(name):
        help = f"write `${{env.{name}}}` or `${{vars.{name}}}`; `$${{` is the text itself"
    else:
        help = "write `${vars.NAME}` or `${env.NAME}`; `$${` is the text itself"
    return Malformed(raw, start, what, help)


def escaped(text: str) -> str:
    """A text as a recipe writes it, so that nothing in it is taken for a reference."""
    return text.replace("$", "$$") if "$" in text else text
