"""The CPU: model, instruction sets that matter to kernels, and the cores this process may really use."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from pathlib import Path

from deploykit.hardware.cgroup import cpu_quota
from deploykit.hardware.machine import CPU

# Instruction sets that a kernel or a library chooses by, in the order they are printed.
KNOWN_FLAGS = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "neon", "fp16", "dotprod", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip
_ARM_NAMES = {"asimd": "neon", "asimdhp": "fp16", "asimddp": "dotprod"}


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError), open(root / "proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        for line in f:
            if not line.strip() and fields:
                break
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    return fields


def _flags(fields: dict[str, str]) -> tuple[str, ...]:
    present = set((fields.get("flags") or fields.get("Features") or "").split())
    present |= {_ARM_NAMES[name] for name in present & _ARM_NAMES.keys()}
    return tuple(flag for flag in KNOWN_FLAGS if flag in present)


def _model(fields: dict[str, str]) -> str:
    if name := fields.get("model name") or fields.get("Model"):
        return name
    if "CPU implementer" in fields:
        return f"ARM implementer {fields['CPU implementer']} part {fields.get('CPU part', '?')}"
    return platform.processor() or "unknown"


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that the affinity mask and the cgroup's quota leave, at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # no affinity on this system
        cores = os.cpu_count() or 1
    quota = cpu_quota(root)
    # Rounded down: under a quota of 1.5 CPUs two busy threads would stand still for a quarter of each period.
    return max(1, cores if quota is None else min(cores, math.floor(quota)))


def probe_cpu(root: Path = Path("/")) -> CPU:
    fields = _cpuinfo(root)
    return CPU(model=_model(fields), cores=usable_cores(root), flags=_flags(fields))
