"""Checks of the CPU: instruction sets, NUMA nodes, huge pages, and variables that take threads away."""

from __future__ import annotations

import os

from deploykit.doctor.check import Context, Finding, ok, skip
from deploykit.hardware.kernel import cpus_of, huge_pages, numa_nodes
from deploykit.plan.text import format_bytes

_SHOWN_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "neon", "bf16", "i8mm",
)  # fmt: skip
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
# Instructions that each of the native engine's variants is compiled with, best first (native/cpu/isa.cpp).
_VARIANTS = (
    ("avx512", ("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx2", "fma", "f16c")),
    ("avxvnni", ("avx_vnni", "avx2", "fma", "f16c")),
    ("avx2", ("avx2", "fma", "f16c")),
    ("neon", ("neon",)),
)
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PINS = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND")


def native_variant(flags: tuple[str, ...]) -> str:
    """The variant that the native engine takes on a CPU with these instructions; the library decides by itself."""
    return next((name for name, needs in _VARIANTS if set(needs) <= set(flags)), "scalar")


def cpu(context: Context) -> Finding:
    cpu = context.machine.cpu
    shown = [flag for flag in _SHOWN_FLAGS if flag in cpu.flags]
    plural = "core" if cpu.cores == 1 else "cores"
    bf16 = "bfloat16" if any(flag in cpu.flags for flag in _BF16_FLAGS) else "no bfloat16 (float32 is used)"
    variant = native_variant(cpu.flags)
    found = (
        f"{cpu.model}, {cpu.cores} {plural}, {bf16}; {' '.join(shown) or 'no vector extensions known'}; "
        f"native variant {variant}"
    )
    if variant == "scalar" or (context.machine.arch == "x86_64" and "avx2" not in cpu.flags):
        why = "without AVX2 (x86) or NEON (Arm) every model is very slow"
        return Finding(
            "warn", found, why, "use another machine; a virtual machine may hide them: choose CPU type `host`"
        )
    return ok(found)


def numa(context: Context) -> Finding:
    nodes = numa_nodes(context.root)
    if not nodes:
        return skip("the kernel doesn't say")
    lines = tuple(
        f"node {node.number}: CPUs {node.cpus or 'none'}, {format_bytes(node.free_bytes)} free of "
        f"{format_bytes(node.total_bytes)}"
        for node in nodes
    )
    with_cpus = [node for node in nodes if node.cpus]
    if len(with_cpus) < 2:
        return ok("one node")
    mine = _affinity()
    used = [node for node in with_cpus if mine & cpus_of(node.cpus)] if mine else with_cpus
    if len(used) == 1:
        return ok(f"{len(with_cpus)} nodes; this process is bound to node {used[0].number}", *lines)
    found = f"{len(with_cpus)} nodes, and this process runs on {len(used)} of them"
    if context.machine.gpus:
        return ok(f"{found} (models run on the GPU)", *lines)
    best = max(used, key=lambda node: node.free_bytes)
    return Finding(
        "warn",
        found,
        "threads that read weights from the other socket's memory take about twice as long",
        f"numactl --cpunodebind={best.number} --membind={best.number} deploykit up …",
        lines,
    )


def _affinity() -> set[int]:
    try:
        return set(os.sched_getaffinity(0))
    except AttributeError:
        return set()


def transparent_huge_pages(context: Context) -> Finding:
    setting = huge_pages(context.root)
    if setting is None:
        return skip("the kernel has none")
    if setting == "never":
        return Finding(
            "warn",
            "never",
            "the native engine asks for huge pages for its weights; without them a CPU reads weights more slowly",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        )
    return ok(setting)


def thread_variables(context: Context) -> Finding:
    """OMP, MKL and OpenBLAS settings that contradict each other, or the cores that there are."""
    cores = context.machine.cpu.cores
    given = {
        name: context.environ[name].strip() for name in _THREADS if context.environ.get(name, "").strip()
    }
    pins = [name for name in _PINS if context.environ.get(name, "").strip()]
    if not given and not pins:
        return ok("no OMP, MKL or OpenBLAS variable is set: the engine takes the cores there are")
    found = ", ".join(
        [f"{name}={value}" for name, value in given.items()] + [f"{name} is set" for name in pins]
    )
    numbers = {name: value.partition(",")[0] for name, value in given.items()}
    wrong = [name for name, value in numbers.items() if not value.isdigit() or int(value) < 1]
    if wrong:
        return Finding("warn", found, f"{wrong[0]} is no number of threads", f"unset {wrong[0]}")
    counts = {int(value) for value in numbers.values()}
    if len(counts) > 1:
        why = "they contradict each other; libraries would run with different numbers of threads"
        return Finding("warn", found, why, f"unset {' '.join(given)}")
    if counts and max(counts) > cores:
        why = f"more threads than the {cores} cores of this process take turns and wait for each other"
        return Finding("warn", found, why, f"unset {' '.join(given)}")
    if pins and not context.machine.gpus:
        why = "pinned OpenMP threads share cores with the engine's own"
        return Finding("warn", found, why, f"unset {' '.join(pins)}")
    return ok(f"{found} (engines take engine.threads, and these count for other libraries)")
