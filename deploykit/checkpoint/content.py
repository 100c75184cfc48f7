"""The sha256 of a file's bytes, computed once: what is made of a file is named by its content, not by its path."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.files import open_regular, read_text
from deploykit.fsutil import write_atomic

_CHUNK = 1 << 20
_HEX = frozenset("0123456789abcdef")


def digest(path: Path, cache: Path | None = None) -> str:
    """64 hexadecimal digits. With `cache`, remembered there for as long as the file isn't touched.

    Raises CheckpointError where the file can't be read or changes meanwhile.
    """
    with open_regular(path) as f:
        before = os.fstat(f.fileno())
        memo = None if cache is None else cache / "digests" / _stamp(before)
        if memo is not None and memo.exists():
            known = read_text(memo, 100).strip()
            if len(known) == 64 and set(known) <= _HEX:
                return known
        sha = hashlib.sha256()
        buffer = bytearray(_CHUNK)
        view = memoryview(buffer)
        while count := f.readinto(buffer):  # type: ignore[attr-defined]
            sha.update(view[:count])
        if _stamp(os.fstat(f.fileno())) != _stamp(before):
            fix = "run it again when nobody writes to it"
            raise CheckpointError("the file has changed while it was read", file=path, fix=fix)
    if memo is not None:
        write_atomic(memo, sha.hexdigest().encode())
    return sha.hexdigest()


def _stamp(status: os.stat_result) -> str:
    """What changes with every write; the times of a file alone can be set back, its ctime can't."""
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]
