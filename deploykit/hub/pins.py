"""Files that must be those that were written down before: the same names, sizes and sums, else an error says which."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from deploykit.errors import DeploykitError
from deploykit.hub.types import PinnedFile

_SHOWN = 4


def pinned_of(pins: Sequence[PinnedFile], listed: Iterable[PinnedFile], where: str) -> tuple[PinnedFile, ...]:
    """The pinned files as a hub lists them, each with its pinned size and sha256; raises where they aren't those.

    What else the hub has is left alone: a pin says which files are wanted.
    """
    there = {f.name: f for f in listed}
    check_pins(pins, [there[p.name] for p in pins if p.name in there], where)
    return tuple(
        msgspec.structs.replace(there[p.name], size=p.size or there[p.name].size, sha256=p.sha256)
        for p in pins
    )


def check_pins(pins: Sequence[PinnedFile], found: Iterable[PinnedFile], where: str) -> None:
    """Raises DeploykitError where `found` isn't what was pinned; a size or a sum that isn't known is passed over."""
    if lines := differences(pins, found):
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise DeploykitError(
            "the model isn't the one that was locked",
            where=where,
            why="; ".join(lines[:_SHOWN]) + more,
            fix="find out why it is another one; if it should be: `deploykit lock` the recipe again",
        )


def differences(pins: Sequence[PinnedFile], found: Iterable[PinnedFile]) -> list[str]:
    """A line for each file that is another one, that is gone, or that is new."""
    there = {f.name: f for f in found}
    lines = []
    for pin in pins:
        file = there.pop(pin.name, None)
        if file is None:
            lines.append(f"{pin.name} is gone")
        elif None not in (pin.size, file.size) and file.size != pin.size:
            lines.append(f"{pin.name} has {file.size} bytes, locked were {pin.size}")
        elif None not in (pin.sha256, file.sha256) and file.sha256 != pin.sha256:
            lines.append(
                f"{pin.name} has sha256 {str(file.sha256)[:12]}…, locked was {str(pin.sha256)[:12]}…"
            )
    return lines + [f"{name} is new" for name in there]


def summed(path: Path, name: str) -> PinnedFile:
    """Size and sha256 of a file as it is now; read once a process, as long as it isn't touched."""
    status = path.stat()
    stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return PinnedFile(name, status.st_size, _sha256(str(path), stamp))


@functools.lru_cache(maxsize=4096)
def _sha256(path: str, stamp: tuple[int, ...]) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
