"""Limits that a container or a service manager puts on this process: cgroup v2 and v1.

A limit counts wherever it stands between the process's own group and the mount's root, so every level is
read. `root` is `/` but for tests.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_UNLIMITED = 1 << 60  # v1 writes "no limit" as a page-rounded 2^63


@dataclass(frozen=True)
class MemoryLimit:
    """One level's limit and what is left of it, in bytes (page cache that can be dropped counts as left)."""

    limit: int
    available: int


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return None


def _read_int(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text and text.lstrip("-").isdigit() else None


def _mounts(root: Path) -> list[tuple[str, frozenset[str], str, Path]]:
    """(file system type, controllers, path of the mounted group, mount point) of every cgroup mount."""
    found = []
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) < 5 or len(after) < 3 or after[0] not in ("cgroup", "cgroup2"):
            continue
        point = root / before[4].lstrip("/")
        found.append((after[0], frozenset(after[2].split(",")), before[3], point))
    return found


def _own_group(root: Path, controller: str) -> str:
    """This process's path in the hierarchy of `controller` ("" is the one of v2)."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            return path
    return "/"


def _levels(root: Path, controller: str) -> tuple[int, list[Path]]:
    """The hierarchy's version (0 = none) and this process's groups in it, innermost first."""
    for version, kind in ((1, "cgroup"), (2, "cgroup2")):
        for fs_type, controllers, mounted, point in _mounts(root):
            if fs_type != kind or (version == 1 and controller not in controllers):
                continue
            own = PurePosixPath(_own_group(root, controller if version == 1 else ""))
            relative = PurePosixPath()
            if own.is_relative_to(mounted) and ".." not in own.parts:
                relative = own.relative_to(mounted)
            groups = [point / relative, *(point / parent for parent in relative.parents)]
            return version, [group for group in dict.fromkeys(groups) if group.is_dir()]
    return 0, []


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that the tightest quota allows (1.5 = one and a half), or None without one."""
    version, groups = _levels(root, "cpu")
    quotas = []
    for group in groups:
        if version == 2:
            quota, _, period = (_read(group / "cpu.max") or "max").partition(" ")
            limit = int(quota) if quota.isdigit() else -1
            length = int(period) if period.isdigit() else 100_000
        else:
            limit = _read_int(group / "cpu.cfs_quota_us") or -1
            length = _read_int(group / "cpu.cfs_period_us") or 100_000
        if limit > 0 and length > 0:
            quotas.append(limit / length)
    return min(quotas, default=None)


def memory_limits(root: Path = Path("/")) -> list[MemoryLimit]:
    """Every memory limit above this process, innermost first; empty without one."""
    version, groups = _levels(root, "memory")
    names = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    cache_key = "inactive_file" if version == 2 else "total_inactive_file"
    found = []
    for group in groups:
        limit = _read_int(group / names[0])
        if limit is None or limit < 0 or limit >= _UNLIMITED:
            continue
        used = _read_int(group / names[1]) or 0
        reclaimable = 0
        for line in (_read(group / "memory.stat") or "").splitlines():
            key, _, value = line.partition(" ")
            if key == cache_key and value.isdigit():
                reclaimable = int(value)
        found.append(MemoryLimit(limit, max(0, limit - max(0, used - reclaimable))))
    return found
