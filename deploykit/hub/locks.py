"""Locks of the cache: one process fetches a model, any number use it, and what is in use isn't removed.

The kernel lets go of a lock when its process ends, however it ends. The files under `locks/` are never removed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from deploykit.errors import DeploykitError
from deploykit.hub.staging import short_name

_POLL_S = 0.2
_held: dict[Path, int] = {}  # lock file -> descriptor, kept until this process ends


def work_lock(cache: Path, name: str) -> Path:
    """The lock of who fetches or converts `name`."""
    return cache / "locks" / f"{name}.lock"


def use_lock(cache: Path, path: Path) -> Path:
    """The lock of those who use a model of the cache."""
    return cache / "locks" / f"use-{short_name('--'.join(path.relative_to(cache).parts))}.lock"


@contextlib.contextmanager
def exclusive(lock: Path, *, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold `lock`. While another process has it, `wait` is called again and again; without one it is an error."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _try_exclusive(fd):
            if wait is None:
                raise DeploykitError("another process works on it", where=lock.stem)
            wait()
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)


def hold(path: Path, cache: Path) -> bool:
    """Mark a model of the cache as used until this process ends; False if it has been removed meanwhile.

    A path outside of the cache needs no mark.
    """
    if not path.is_relative_to(cache):
        return path.exists()
    import fcntl

    lock = use_lock(cache, path)
    if lock not in _held:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return path.exists()  # a cache that may only be read: nothing is removed from it either
        fcntl.flock(fd, fcntl.LOCK_SH)
        _held[lock] = fd
    return path.exists()


def release(path: Path, cache: Path) -> None:
    """Take the mark of `hold` back."""
    if path.is_relative_to(cache) and (fd := _held.pop(use_lock(cache, path), None)) is not None:
        os.close(fd)


def _try_exclusive(fd: int) -> bool:
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
