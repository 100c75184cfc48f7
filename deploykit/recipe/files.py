"""A recipe file to text; every way in which a file can't be read is a diagnostic."""

from __future__ import annotations

import difflib
import os
import sys
from functools import cache, lru_cache
from pathlib import Path

from .diagnostics import Diagnostic, Source, diagnostic, printable
from .loader import LINE_BREAK, Document, parse, span_at

MAX_BYTES = 1 << 20
STDIN = Path("<stdin>")
"""Stands for the recipe on stdin, `-` on a command line. Its folder is the working folder."""


def read_file(path: Path, rank: int = 0) -> Document:
    """Read and parse a recipe file. Never raises for what the file is or holds. `rank` is that of its Source."""
    source = Source(str(path), rank=rank)
    try:
        if path == STDIN:
            raw = stdin_bytes()
        else:
            with path.open("rb") as f:
                raw = f.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        return Document(source, problems=[_unreadable(source, path, error)])
    return decode(raw, str(path), rank)


@cache
def stdin_bytes() -> bytes:
    """What stdin brings, a byte more than a recipe may have at most. It comes once, and is read more than once."""
    if sys.stdin is None:
        raise ValueError("stdin is closed")
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def decode(raw: bytes, name: str, rank: int = 0) -> Document:
    """Parse what a recipe file holds. Of the same bytes once: a recipe's profiles are each read on their own."""
    return _parsed(raw, name, rank).copy()


@lru_cache(maxsize=64)
def _parsed(raw: bytes, name: str, rank: int) -> Document:
    if len(raw) > MAX_BYTES:
        source = Source(name, rank=rank)
        what = "the file is larger than 1 MiB, which no recipe needs"
        return Document(source, problems=[diagnostic("too-large", what, source)])
    try:
        return parse(raw.decode("utf-8-sig"), name, rank=rank, overlay=True)
    except UnicodeDecodeError as error:
        return Document(Source(name), problems=[_not_utf8(name, raw, error)])


def _unreadable(source: Source, path: Path, error: OSError | ValueError) -> Diagnostic:
    if isinstance(error, FileNotFoundError):
        return diagnostic("missing-file", "there is no such file", source, help=_similar_file(path))
    if isinstance(error, IsADirectoryError):
        fix = "give the file inside it, or use `deploykit up FOLDER` for a folder that holds a model"
        return diagnostic("not-a-file", "this is a folder, not a recipe file", source, help=fix)
    if isinstance(error, PermissionError):
        return diagnostic("unreadable-file", "no permission to read the file", source)
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return diagnostic("unreadable-file", f"the file can't be read: {reason}", source)


def similar_name(path: Path) -> str | None:
    """The name of a recipe beside `path` that may be meant. Raises OSError where there is no such folder."""
    names = [e.name for e in os.scandir(path.parent) if e.name.endswith((".yaml", ".yml"))]
    stems = {name.rpartition(".")[0]: name for name in names[:1000]}
    stem = path.name.removesuffix(".yml").removesuffix(".yaml")
    close = difflib.get_close_matches(stem[:255], stems, 1)
    return stems[close[0]] if close else None


def _similar_file(path: Path) -> str | None:
    try:
        close = similar_name(path)
    except OSError:
        return f"the folder {printable(str(path.parent))} doesn't exist either"
    return f"did you mean `{printable(str(path.with_name(close)))}`?" if close else None


def _not_utf8(name: str, raw: bytes, error: UnicodeDecodeError) -> Diagnostic:
    text = raw.decode("utf-8", errors="replace")
    before = raw[: error.start].decode("utf-8")
    source = Source(name, tuple(LINE_BREAK.split(text)))
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        what, fix = "the file is UTF-16, not UTF-8", "save it as UTF-8"
    else:
        what = f"the byte 0x{raw[error.start]:02x} isn't UTF-8"
        fix = "save the file as UTF-8 text; is it a recipe at all?"
    return diagnostic("not-utf8", what, source, span_at(before, len(before)), fix)
