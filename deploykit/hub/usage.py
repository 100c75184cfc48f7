"""Which processes have files of the cache open or mapped, where the system tells."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from deploykit.hub.locks import use_lock

_PROC = Path("/proc")


def open_files(cache: Path) -> dict[str, set[int]]:
    """Paths below `cache` that other processes of this user have open or mapped, with their ids.

    Empty where there is no /proc: the locks still hold.
    """
    root = os.path.realpath(cache) + os.sep
    found: dict[str, set[int]] = {}
    if not _PROC.is_dir():
        return found
    for process in _PROC.iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # another user's, or gone
            for path in _paths_of(process, root):
                found.setdefault(path, set()).add(int(process.name))
    return found


def _paths_of(process: Path, root: str) -> set[str]:
    paths: set[str] = set()
    for fd in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            if (target := str(fd.readlink())).startswith(root):
                paths.add(target)
    with open(process / "maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            at = line.find(root)
            if at > 0:
                paths.add(line[at:].rstrip("\n"))
    return paths


def users(path: Path, cache: Path, opened: dict[str, set[int]]) -> set[int]:
    """Processes that use a thing of the cache: hold its lock, or have a file of it open or mapped."""
    real = os.path.realpath(path)
    lock = os.path.realpath(use_lock(cache, path))
    pids = set(opened.get(lock, ()))
    for name, owners in opened.items():
        if name == real or name.startswith(real + os.sep):
            pids |= owners
    return pids
