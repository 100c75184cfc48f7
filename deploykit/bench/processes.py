"""What the operating system knows of a process: processor time and memory. Linux only."""

from __future__ import annotations

import os
from pathlib import Path

from deploykit.errors import DeploykitError


def cpu_seconds(pid: int) -> float | None:
    """Processor time of a process so far, all threads; None where the system doesn't tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> tuple[int, int]:
    """(resident, anonymous) bytes. Raises DeploykitError where the system doesn't tell."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError as error:
        raise DeploykitError(
            "the memory of a process can't be read", where=f"pid {pid}", why=str(error)
        ) from None
    sizes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if rest.strip().endswith("kB"):
            sizes[name] = int(rest.split()[0]) * 1024
    return sizes["Rss"], sizes["Anonymous"]
