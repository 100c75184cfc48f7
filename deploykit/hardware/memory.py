"""Main memory: what the machine has and what the cgroup leaves of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from deploykit.hardware.cgroup import memory_limits


def read_meminfo(root: Path = Path("/")) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    values: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            key, _, rest = line.partition(":")
            words = rest.split()
            if words and words[0].isdigit():
                values[key] = int(words[0]) * (1024 if words[-1] == "kB" else 1)
    return values


def _sysconf(name: str) -> int:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    return 0


def probe_memory(root: Path = Path("/")) -> tuple[int, int]:
    """(total, available) in bytes under every limit; 0 where the system doesn't say."""
    info = read_meminfo(root)
    total = info.get("MemTotal") or _sysconf("SC_PHYS_PAGES")
    available = info.get("MemAvailable") or _sysconf("SC_AVPHYS_PAGES") or total
    for level in memory_limits(root):
        total = min(total, level.limit) if total else level.limit
        available = min(available, level.available)
    return total, min(available, total)
