"""What is wrong with a recipe, where it stands, and how to fix it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deploykit.errors import ConfigError

MAX_ERRORS = 100  # shown of a recipe; the rest is counted

KeyPath = tuple[str | int, ...]
"""Keys and list indexes from the top of a recipe: `("model", "sources", 0, "hf")`."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of one line. `line` and `col` count from 1, `length` is in characters and may be 0."""

    line: int
    col: int
    length: int


@dataclass(frozen=True, slots=True)
class Source:
    """A text that values come from: a file, or what stood after `--set`.

    `rank` is the place among the files of one recipe: 0 for the recipe itself, then those it extends as they are read.
    """

    name: str
    lines: tuple[str, ...] = ()
    is_file: bool = True
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key and its value are written. An item of a list has no key.

    `profile` is the profile that the value belongs to, empty outside of profiles.
    """

    source: Source
    key: Span | None
    value: Span
    profile: str = ""


@dataclass(frozen=True, slots=True)
class Related:
    """Another place that an error is about, and what stands there. Its fields are those of a Diagnostic."""

    message: str
    file: str
    line: int | None
    col: int
    snippet: str
    length: int


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error. `line` is None where there is no line to point at: a missing file, or a `--set`.

    `line` and `col` count from 1, `snippet` is the line as written and `length` the characters of it meant.
    `related` are the other places of an error that is about several. `rename` is the key to write in place of the
    one that is pointed at, where that is all there is to do. All texts are raw: `render` makes them safe for a
    terminal.
    """

    code: str
    message: str
    file: str
    line: int | None = None
    col: int | None = None
    snippet: str | None = None
    help: str | None = None
    length: int = 1
    related: tuple[Related, ...] = ()
    rename: str | None = None

    @property
    def where(self) -> str:
        if self.line is None:
            return f"{self.file} {self.snippet}" if self.snippet is not None else self.file
        return f"{self.file}:{self.line}:{self.col}"


def diagnostic(
    code: str,
    message: str,
    source: Source,
    span: Span | None = None,
    help: str | None = None,
    *,
    related: tuple[Related, ...] = (),
    rename: str | None = None,
) -> Diagnostic:
    """A diagnostic that points at `span` of `source`."""
    if span is None:
        return Diagnostic(code, message, source.name, help=help, related=related)
    text, length = _quoted(source, span)
    line = span.line if source.is_file else None
    return Diagnostic(code, message, source.name, line, span.col, text, help, length, related, rename)


def related(message: str, source: Source, span: Span) -> Related:
    """Another place of an error, at `span` of `source`."""
    text, length = _quoted(source, span)
    return Related(message, source.name, span.line if source.is_file else None, span.col, text, length)


def _quoted(source: Source, span: Span) -> tuple[str, int]:
    """The line of a span, and how many characters of it are meant, one at least."""
    text = source.lines[span.line - 1] if span.line <= len(source.lines) else ""
    return text, max(1, min(span.length, len(text) - span.col + 1))


class RecipeError(ConfigError):
    """A recipe that can't be used: exit code 2. `diagnostics` holds every error, in the order of the file."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        if not diagnostics:
            raise ValueError("a RecipeError carries at least one diagnostic")
        first = diagnostics[0]
        super().__init__(summary(diagnostics), where=first.where, why=first.message, fix=first.help)
        self.diagnostics = tuple(diagnostics)

    def __str__(self) -> str:
        from .render import render_plain

        return render_plain(self.diagnostics)


def summary(diagnostics: Sequence[Diagnostic]) -> str:
    """`3 errors in a.yaml, 1 in b.yaml`."""
    counts = Counter(d.file for d in diagnostics)
    parts = [f"{count} in {printable(file)}" for file, count in counts.items()]
    parts[0] = parts[0].replace(
        " in ", " error in " if counts[diagnostics[0].file] == 1 else " errors in ", 1
    )
    return ", ".join(parts)


_BLANK = frozenset("\u115f\u1160\u3164\uffa0")  # letters by category, and yet nothing is seen of them


def printable(text: str) -> str:
    """`text` with everything escaped that a terminal would act on, reorder by or not show."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() and c not in _BLANK else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def dotted(path: Iterable[str | int]) -> str:
    """`model.sources[0].hf`."""
    text = ""
    for segment in path:
        if isinstance(segment, int):
            text += f"[{segment}]"
        else:
            text += f".{_short(segment)}" if text else _short(segment)
    return text


def shown(value: object) -> str:
    """A value in a few words, for `got …`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {_short(str(value))}"
    if isinstance(value, str):
        return f'the text "{_short(value)}"' if value else "an empty text"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    return f"a {type(value).__name__}"


def _short(text: str, limit: int = 40) -> str:
    text = printable(text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"
