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
    gutter = " " * len(str(d.line or " "))
    pieces.append((f"{gutter}--> ", "blue"))
    if d.snippet is None or d.col is None:
        pieces.append((f"{printable(d.where)}\n", ""))
    else:
        before, marked, after = _cut(d.snippet, d.col - 1, d.length)
        caret = " " * _cells(before) + "^" * max(1, _cells(marked))
        if d.line is None:
            pieces.append((f"{printable(d.file)} {before}{marked}{after}\n", ""))
            pieces.append((" " * (len(gutter) + len(f"--> {d.file} ")) + f"{caret}\n", "bold red"))
        else:
            pieces += [
                (f"{printable(d.where)}\n", ""),
                (f"{d.line} | ", "blue"),
                (f"{before}{marked}{after}\n", ""),
                (f"{gutter} | ", "blue"),
                (f"{caret}\n", "bold red"),
            ]
    if d.help:
        pieces += [(f"{gutter} = ", "blue"), ("help", "cyan"), (f": {printable(d.help)}\n", "")]
    pieces.append(("\n", ""))
    return pieces


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
