"""`validate --fix`: keys of a recipe file renamed where nothing else is to be decided.

Only the letters of a key are replaced, so that comments, quotes, layout and line ends stay as they are. A rename is
kept only if the recipe reads the same but for it: no key stands twice then, and no value of another server's key is
out of bounds here.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploykit.errors import DeploykitError
from deploykit.fsutil import write_atomic

from .check import Overrides
from .diagnostics import Diagnostic, printable
from .files import MAX_BYTES, decode
from .foreign import meanings
from .loader import LINE_BREAK
from .mask import Mask
from .recipe import check_bytes
from .suggest import snake_case

_ROUNDS = 8  # a renamed section shows what is wrong inside it
_BREAKS = re.compile(f"({LINE_BREAK.pattern})")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Rename:
    """A key at `line` and `col` (from 1, in the text it is applied to), as it was and as it shall be."""

    line: int
    col: int
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Fixed:
    """A file's bytes before and after, and what was renamed between them, in the order of the text."""

    path: Path
    before: bytes
    after: bytes
    renames: tuple[Rename, ...]

    def diff(self) -> str:
        """A unified diff that is safe to show: control characters escaped, credentials starred."""
        name = printable(str(self.path))
        lines = difflib.unified_diff(
            _shown(self.before), _shown(self.after), name, f"{name} (fixed)", n=1, lineterm=""
        )
        return "".join(f"{line}\n" for line in lines)

    def write(self) -> None:
        """Put the new bytes in place of the old ones, at once or not at all; a link's target, with its mode."""
        target = Path(os.path.realpath(self.path))
        if target.read_bytes() != self.before:
            raise DeploykitError(
                "the file was changed meanwhile", where=str(self.path), fix="run `validate --fix` again"
            )
        write_atomic(target, self.after, mode=stat.S_IMODE(target.stat().st_mode))


def fix_file(path: str | os.PathLike[str]) -> Fixed | None:
    """What can be renamed in a file; None where there is nothing. The file is only read."""
    try:
        with Path(path).open("rb") as f:
            raw = f.read(MAX_BYTES + 1)
    except (OSError, ValueError):
        return None  # checking the file says why
    after, renames = fix_bytes(raw, str(path))
    return Fixed(Path(path), raw, after, tuple(renames)) if renames else None


def fix_bytes(raw: bytes, name: str = "recipe") -> tuple[bytes, list[Rename]]:
    """A recipe's bytes with its keys renamed, and the renames; the same bytes where there are none.

    `name` is its file, which what it extends is relative to. Nothing but the recipe itself is changed.
    """
    done: list[Rename] = []
    refused: set[tuple[int, str]] = set()
    for _ in range(_ROUNDS):
        found = _check(raw, name)
        wanted = [r for r in _wanted(raw, found) if (r.line, r.old) not in refused]
        if not wanted:
            break
        kept, after = wanted, _renamed(raw, wanted)
        if not _is_better(found, _check(after, name), wanted):
            kept, after = _one_by_one(raw, name, found, wanted)
            refused |= {(r.line, r.old) for r in wanted if r not in kept}
        done, raw = done + kept, after
    return raw, sorted(done, key=lambda r: (r.line, r.col))


def _check(raw: bytes, name: str) -> list[Diagnostic]:
    """The errors of the file itself, in every one of its profiles."""
    found = check_bytes(raw, name, Overrides(every_profile=True))
    return [d for d in found if d.file == name]


def _wanted(raw: bytes, found: Sequence[Diagnostic]) -> list[Rename]:
    """What the diagnostics propose, where the text holds the key as it is read."""
    lines = decode(raw, "recipe").source.lines
    at: dict[tuple[int, int], set[Rename]] = {}
    for d in found:
        if d.rename is None or d.line is None or d.col is None:
            continue
        text = lines[d.line - 1][d.col - 1 : d.col - 1 + d.length]
        quote = text[:1] if text[:1] in ('"', "'") and text[:1] == text[-1:] and len(text) > 1 else ""
        key = text[len(quote) : len(text) - len(quote)]
        if re.fullmatch(r"[\w][\w .-]*", key):  # no escapes, anchors or tags
            rename = Rename(d.line, d.col + len(quote), key, d.rename)
            at.setdefault((d.line, d.col), set()).add(rename)
    # An alias shows one text in two sections, which may want two names for it.
    return [next(iter(renames)) for renames in at.values() if len(renames) == 1]


def _renamed(raw: bytes, renames: Sequence[Rename]) -> bytes:
    bom = _BOM if raw.startswith(_BOM) else b""
    parts = _BREAKS.split(raw.decode("utf-8-sig"))  # line, break, line, break, …, line
    for r in sorted(renames, key=lambda r: (r.line, r.col), reverse=True):
        line = parts[2 * (r.line - 1)]
        parts[2 * (r.line - 1)] = line[: r.col - 1] + r.new + line[r.col - 1 + len(r.old) :]
    return bom + "".join(parts).encode()


def _one_by_one(
    raw: bytes, name: str, found: Sequence[Diagnostic], wanted: Sequence[Rename]
) -> tuple[list[Rename], bytes]:
    """Of the renames, in the order of the text, those that are right beside the ones before them."""
    kept: list[Rename] = []
    for rename in wanted:
        trial = [*kept, rename]
        if _is_better(found, _check(_renamed(raw, trial), name), trial):
            kept = trial
    return kept, _renamed(raw, kept)


def _is_better(before: Sequence[Diagnostic], after: Sequence[Diagnostic], renames: Sequence[Rename]) -> bool:
    """Whether the renames bring no error of their own.

    A misspelt section may show what is wrong inside it: that was hidden, not made. A name of another server must
    be right with its value, or it means something else here.
    """
    if _duplicates(before) != _duplicates(
        after
    ):  # neither made nor hidden: renaming one of two would do that
        return False
    new = Counter(map(_identity, after)) - Counter(map(_identity, before))
    if any(code == "conflict" for code, _, _ in new):
        return False
    foreign = {r.line for r in renames if meanings(snake_case(r.old))}
    return not any(line in foreign for _, _, line in new)


def _duplicates(found: Sequence[Diagnostic]) -> list[int | None]:
    return [d.line for d in found if d.code == "duplicate-key"]


def _identity(d: Diagnostic) -> tuple[str, str, int | None]:
    """What stays of an error while names before it in its line change."""
    return (d.code, d.message, d.line)


def _shown(raw: bytes) -> list[str]:
    document = decode(raw, "recipe")
    mask = Mask(document.secrets)
    return [printable(mask.line("recipe", n, line)) for n, line in enumerate(document.source.lines, 1)]
