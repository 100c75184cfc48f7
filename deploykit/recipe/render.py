"""Diagnostics as text: coloured on a terminal, plain in a pipe, and safe to show on either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .diagnostics import Diagnostic, printable, summary

if TYPE_CHECKING:
    from rich.text import Text

_Piece = tuple[str, str]  # text, style
_WIDTH = 100  # of a shown source line; a longer one is cut around the caret


def render_plain(diagnostics: Sequence[Diagnostic]) -> str:
    """Everything as plain text, without a line break at the end."""
    return "".join(text for text, _ in _pieces(diagnostics))


def render_rich(diagnostics: Sequence[Diagnostic]) -> Text:
    """The same text with styles for a rich console."""
    from rich.text import Text

    return Text.assemble(*_pieces(diagnostics))


def to_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """For machines: the raw texts, without the source line."""
    return {
        "code": diagnostic.code,
        "message": diagnostic.message,
        "file": diagnostic.file,
        "line": diagnostic.line,
        "col": diagnostic.col,
        "length": diagnostic.length,
        "help": diagnostic.help,
        "related": [
            {"message": r.message, "file": r.file, "line": r.line, "col": r.col, "length": r.length}
            for r in diagnostic.related
        ],
        "rename": diagnostic.rename,
    }


def _pieces(diagnostics: Sequence[Diagnostic]) -> list[_Piece]:
    pieces: list[_Piece] = []
    for diagnostic in diagnostics:
        pieces += _one(diagnostic)
    if diagnostics:
        pieces.append((summary(diagnostics), "bold"))
    return pieces


def _one(d: Diagnostic) -> list[_Piece]:
    pieces = [(f"error[{d.code}]", "bold red"), (f": {printable(d.message)}\n", "bold")]
    width = max(len(str(line or " ")) for line in (d.line, *(r.line for r in d.related)))
    gutter = " " * width
    pieces.append((f"{gutter}--> ", "blue"))
    if d.snippet is None or d.col is None:
        pieces.append((f"{printable(d.where)}\n", ""))
    else:
        pieces += _place(d.file, d.line, d.col, d.snippet, d.length, width, "^", "bold red")
    for other in d.related:
        pieces += [(f"{gutter}::: ", "blue"), (f"{printable(other.message)}: ", "")]
        pieces += _place(
            other.file, other.line, other.col, other.snippet, other.length, width, "-", "bold blue"
        )
    if d.help:
        pieces += [(f"{gutter} = ", "blue"), ("help", "cyan"), (f": {printable(d.help)}\n", "")]
    pieces.append(("\n", ""))
    return pieces


def _place(
    file: str, line: int | None, col: int, snippet: str, length: int, width: int, mark: str, style: str
) -> list[_Piece]:
    """`file:line:col`, the source line, and marks under what is meant."""
    before, marked, after = _cut(snippet, col - 1, length)
    marks = mark * max(1, _cells(marked))
    if line is None:
        return [
            (f"{printable(file)} {before}{marked}{after}\n", ""),
            (" " * (width + len(f"--> {file} ") + _cells(before)) + f"{marks}\n", style),
        ]
    return [
        (f"{printable(file)}:{line}:{col}\n", ""),
        (f"{line:>{width}} | ", "blue"),
        (f"{before}{marked}{after}\n", ""),
        (f"{' ' * width} | ", "blue"),
        (" " * _cells(before) + f"{marks}\n", style),
    ]


def _cut(line: str, start: int, length: int) -> tuple[str, str, str]:
    """The printable line in three parts: before, the piece meant, after; cut to about `_WIDTH`."""
    marked = line[start : start + length]
    first = max(0, start - _WIDTH // 2) if len(line) > _WIDTH else 0
    room = _WIDTH - (start - first)
    if len(marked) > room:
        marked, tail = marked[: room - 1] + "…", ""
    else:
        tail = line[start + length :]
        room -= len(marked)
        tail = tail if len(tail) <= room else tail[: max(0, room - 1)] + "…"
    head = ("…" if first else "") + line[first:start]
    return _clean(head), _clean(marked), _clean(tail)


def _clean(text: str) -> str:
    return printable(text.replace("\t", "    "))


def _cells(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
