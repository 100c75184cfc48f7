"""Checks of the CPU, memory, disk and GPUs."""

from __future__ import annotations

from pathlib import Path

from deploykit.doctor.check import Context, Finding, ok
from deploykit.hardware.machine import GPU, Machine
from deploykit.plan.choose import MIN_COMPUTE_CAPABILITY, gpu_problem
from deploykit.plan.text import format_bytes

GIB = 1 << 30
_SHOWN_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "neon",
    "bf16",
    "i8mm",
)
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"

# Index of torch's wheels for the newest CUDA that a driver runs.
_TORCH_INDEXES = (((13, 0), "cu130"), ((12, 8), "cu128"), ((12, 6), "cu126"))


def cpu(context: Context) -> Finding:
    cpu = context.machine.cpu
    shown = [flag for flag in _SHOWN_FLAGS if flag in cpu.flags]
    plural = "core" if cpu.cores == 1 else "cores"
    bf16 = "bfloat16" if any(flag in cpu.flags for flag in _BF16_FLAGS) else "no bfloat16 (float32 is used)"
    found = f"{cpu.model}, {cpu.cores} {plural}, {bf16}; {' '.join(shown) or 'no vector extensions known'}"
    if context.machine.arch == "x86_64" and "avx2" not in cpu.flags:
        return Finding("warn", found, "without AVX2 every model is very slow", "use another machine")
    return ok(found)


def memory(context: Context) -> Finding:
    total, available = context.machine.memory_total, context.machine.memory_available
    if not total:
        return Finding("warn", "not known", "the planner can't tell what fits")
    found = f"{format_bytes(available)} available of {format_bytes(total)}"
    if available < GIB:
        why = "even a small model needs about 1 GiB on a CPU"
        return Finding("warn", found, why, "stop other programs, or raise the container's limit")
    return ok(found)


def disk(context: Context) -> Finding:
    free = context.machine.disk_free
    found = f"{format_bytes(free)} free at {context.cache}"
    if free < GIB:
        fix = "free some space, or point DEPLOYKIT_CACHE at another disk"
        return Finding("fail", found, "weights are fetched to that disk", fix)
    if free < 10 * GIB:
        fix = "point DEPLOYKIT_CACHE at a larger disk for larger models"
        return Finding("warn", found, "an 8B model takes about 16 GiB", fix)
    return ok(found)


def gpu(context: Context) -> Finding:
    machine = context.machine
    if machine.gpus:
        found = "; ".join(_describe(gpu) for gpu in machine.gpus)
        if machine.gpu_error:
            return Finding("warn", found, machine.gpu_error, "nvidia-smi shows the state of every GPU")
        busy = [gpu for gpu in machine.gpus if gpu.free_bytes < gpu.total_bytes // 2]
        if busy:
            names = ", ".join(f"GPU {gpu.index}" for gpu in busy)
            why = f"other processes hold more than half of the memory of {names}"
            return Finding("warn", found, why, "nvidia-smi lists them")
        return ok(found)
    error = machine.gpu_error or "no GPU was found"
    if "CUDA_VISIBLE_DEVICES" in error:
        return Finding("warn", "hidden", error, "unset CUDA_VISIBLE_DEVICES")
    on_bus = nvidia_on_bus(context.root)
    if on_bus:
        fix = "install NVIDIA's driver (Debian: apt install nvidia-driver), or start the container with --gpus all"
        return Finding("fail", f"{on_bus} NVIDIA GPU on the bus, not reachable", error, fix)
    return Finding("skip", "no NVIDIA GPU: models run on the CPU", error)


def _describe(gpu: GPU) -> str:
    major, minor = gpu.compute_capability
    memory = f"{format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}"
    return f"GPU {gpu.index}: {gpu.name}, compute capability {major}.{minor}, {memory}"


def nvidia_on_bus(root: Path) -> int:
    """How many NVIDIA display devices the PCI bus shows, driver or not."""
    count = 0
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:
            continue
        count += vendor == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASS)
    return count


def gpu_torch(context: Context) -> Finding:
    """Driver, torch's CUDA and the GPU's generation have to agree."""
    machine = context.machine
    if not machine.gpus:
        return Finding("skip", "no GPU")
    first = machine.gpus[0]
    build = f"CUDA {machine.torch_cuda}" if machine.torch_cuda else "CPU build"
    torch = f"torch {machine.torch} ({build})" if machine.torch else "no torch"
    found = f"driver {first.driver or 'unknown'} runs CUDA up to {first.cuda_driver or 'unknown'}; {torch}"
    problems = {gpu.index: gpu_problem(machine, gpu) for gpu in machine.gpus}
    if not all(problems.values()):
        partly = next((problem for problem in problems.values() if problem), None)
        return Finding("warn", found, partly, "the other GPUs are used") if partly else ok(found)
    problem = problems[first.index] or ""
    if first.compute_capability < MIN_COMPUTE_CAPABILITY:
        return Finding("warn", found, problem, "models run on the CPU; a newer GPU is needed")
    return Finding("fail", found, f"the GPU can't be used: {problem}", _torch_fix(machine, first))


def _torch_fix(machine: Machine, gpu: GPU) -> str:
    """The command that installs a torch that this driver can run."""
    runs = tuple(int(part) for part in (gpu.cuda_driver or "13.0").split(".")[:2])
    version = (machine.torch or "").partition("+")[0]
    package = f"torch=={version}" if version else "torch"
    for needs, index in _TORCH_INDEXES:
        if runs >= needs:
            return f"pip install --force-reinstall {package} --index-url https://download.pytorch.org/whl/{index}"
    return "update NVIDIA's driver to 580 or newer"
