"""Checks of memory, swap and disk, and of accelerators that this version doesn't run on."""

from __future__ import annotations

from deploykit.doctor.check import Context, Finding, ok, skip
from deploykit.hardware.kernel import swap as probe_swap
from deploykit.hardware.pci import accelerators
from deploykit.plan.text import format_bytes

GIB = 1 << 30
_WORDS = {
    "amd": "AMD GPUs (ROCm) are not supported by this version",
    "intel": "Intel GPUs (XPU) are not supported by this version",
    "ascend": "Huawei Ascend NPUs (npu, CANN) are not supported by this version",
    "gaudi": "Intel Gaudi accelerators (HPU) are not supported by this version",
}


def memory(context: Context) -> Finding:
    total, available = context.machine.memory_total, context.machine.memory_available
    if not total:
        return Finding("warn", "not known", "the planner can't tell what fits")
    found = f"{format_bytes(available)} available of {format_bytes(total)}"
    if available < GIB:
        why = "even a small model needs about 1 GiB on a CPU"
        return Finding("warn", found, why, "stop other programs, or raise the container's limit")
    return ok(found)


def swap(context: Context) -> Finding:
    found = probe_swap(context.root)
    if not found.total:
        return ok("none")
    used = found.total - found.free
    text = f"{format_bytes(used)} used of {format_bytes(found.total)}"
    if used > GIB and used > found.total // 4:
        why = "memory is short on this machine: weights that are swapped out are read back from the disk at every step"
        return Finding("warn", text, why, "stop other programs; `free -h` and `top` show who holds memory")
    return ok(text)


def disk(context: Context) -> Finding:
    free = context.machine.disk_free
    found = f"{format_bytes(free)} free at {context.cache}"
    missing = context.missing_bytes
    if missing is not None:
        found += (
            f"; {format_bytes(missing)} of the recipe's model still to fetch"
            if missing
            else "; the model is there"
        )
        if missing > free:
            fix = "free some space (`deploykit cache prune`), or point DEPLOYKIT_CACHE at another disk"
            return Finding("fail", found, "the recipe's model doesn't fit on that disk", fix)
    if free < GIB:
        fix = "free some space, or point DEPLOYKIT_CACHE at another disk"
        return Finding("fail", found, "weights are fetched to that disk", fix)
    if free < 10 * GIB and missing is None:
        fix = "point DEPLOYKIT_CACHE at a larger disk for larger models"
        return Finding("warn", found, "an 8B model takes about 16 GiB", fix)
    return ok(found)


def other_accelerators(context: Context) -> Finding:
    """AMD, Intel and Ascend by name: nobody should wonder why they are not used."""
    there = [one for one in accelerators(context.root, context.environ) if one.kind != "nvidia"]
    named = [f"{one.name} ({one.place})" for one in there]
    real = [one for one in there if not one.graphics]
    if not real:
        return skip(", ".join(named) or "none", "graphics of the board are not used" if named else "")
    why = "; ".join(dict.fromkeys(_WORDS[one.kind] for one in real))
    serves = "NVIDIA's GPUs serve" if context.machine.gpus else "models run on the CPU"
    fix = "use an NVIDIA GPU of compute capability 7.5 or newer, or the CPU (engine.device: cpu)"
    return Finding("warn", ", ".join(named), f"{why}: {serves}", fix)
