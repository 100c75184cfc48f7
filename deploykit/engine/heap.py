"""The process's heap: giving freed memory back, and measuring what it holds."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path


@functools.lru_cache(maxsize=1)
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None on other C libraries."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


def release_free_heap() -> None:
    """Return freed memory to the system.

    Packing weights makes large temporaries, which the allocator keeps after they are freed: about as much again as
    the weights, for the life of the process and in nobody's plan.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def anonymous_bytes() -> int:
    """Anonymous memory of this process; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:  # not Linux
        return 0
    for line in lines:
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return 0
