"""Free space where files will be written."""

from __future__ import annotations

import shutil
from pathlib import Path


def existing_parent(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def probe_disk(path: Path) -> int:
    """Bytes free for this user at `path`, which need not exist yet; 0 where it can't be asked."""
    try:
        return shutil.disk_usage(existing_parent(path)).free
    except OSError:
        return 0
