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


def busy_seconds() -> float | None:
    """Processor time that the whole machine has used so far; None where the system doesn't tell."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq = (int(value) for value in fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def private_bytes(pid: int) -> int:
    """Resident memory that no other process shares. Raises DeploykitError where the system doesn't tell."""
    sizes = _sizes(pid)
    return sizes["Private_Clean"] + sizes["Private_Dirty"]


def memory_bytes(pid: int) -> tuple[int, int]:
    """(resident, anonymous) bytes. Raises DeploykitError where the system doesn't tell."""
    sizes = _sizes(pid)
    return sizes["Rss"], sizes["Anonymous"]


def _sizes(pid: int) -> dict[str, int]:
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
    return sizes
