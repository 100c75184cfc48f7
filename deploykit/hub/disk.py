"""Free disk space, asked before anything is written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from deploykit.errors import EXIT_NO_FIT, DeploykitError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RESERVE = 64 << 20  # bytes that stay free: a file system filled to the last byte breaks other programs


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write at `path`, or at its nearest folder that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def require_space(path: Path, need: int, *, what: str) -> None:
    """Raises DeploykitError (exit 3) when `need` bytes don't fit at `path`."""
    have = free_bytes(path)
    if have < need + RESERVE:
        raise DeploykitError(
            f"not enough disk space for {what}",
            where=str(path),
            why=f"{size_text(need)} are needed (and {size_text(RESERVE)} kept free), {size_text(have)} are free",
            fix="free some space, or set DEPLOYKIT_CACHE to a folder on a larger disk",
            exit_code=EXIT_NO_FIT,
        )


def size_text(n: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"
