"""Which device, which engine, which dtype: ranked, and with a reason for every rejection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.plan.errors import PlanError
from deploykit.plan.text import format_bytes
from deploykit.plan.types import Candidate, Decision

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hardware.machine import GPU, Machine

MIN_COMPUTE_CAPABILITY = (7, 5)
_CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
_CPU_FLOAT16 = ("amx_fp16", "avx512_fp16", "fp16")


@dataclass(frozen=True)
class Device:
    kind: str  # cpu | cuda
    gpu: GPU | None
    decision: Decision | None  # None where the recipe left nothing to choose


# ---------------------------------------------------------------- device


def gpu_problem(machine: Machine, gpu: GPU) -> str | None:
    """Why this GPU can't be used, or None."""
    major, minor = gpu.compute_capability
    if gpu.compute_capability < MIN_COMPUTE_CAPABILITY:
        need = "{}.{}".format(*MIN_COMPUTE_CAPABILITY)
        return f"{gpu.name} has compute capability {major}.{minor}, {need} is the least that is supported"
    if machine.torch is None:
        return "torch is not installed"
    if machine.torch_cuda is None:
        return f"the installed torch {machine.torch} is built for the CPU alone"
    if gpu.cuda_driver and int(gpu.cuda_driver.split(".")[0]) < int(machine.torch_cuda.split(".")[0]):
        return (
            f"torch is built for CUDA {machine.torch_cuda} and the driver {gpu.driver or ''} "
            f"runs CUDA {gpu.cuda_driver} at most"
        )
    return None


def choose_device(wanted: str, machine: Machine) -> Device:
    """The GPU with the most free memory, else the CPU. Raises PlanError where `cuda` is asked for in vain."""
    problems = {gpu.index: gpu_problem(machine, gpu) for gpu in machine.gpus}
    usable = [gpu for gpu in machine.gpus if problems[gpu.index] is None]
    best = max(usable, key=lambda gpu: (gpu.free_bytes, -gpu.index), default=None)
    why_not = next((p for p in problems.values() if p), None) or machine.gpu_error or "no GPU was found"
    if wanted == "cpu":
        return Device("cpu", None, None)
    if wanted == "cuda":
        if best is None:
            raise PlanError(
                "the recipe asks for a GPU and there is none to use",
                where="engine.device: cuda",
                why=why_not,
                fixes=["--set engine.device=cpu", "`deploykit doctor` says how to repair it"],
            )
    elif best is None:
        return Device("cpu", None, Decision("engine.device", "cpu", f"no GPU to use: {why_not}"))
    reason = f"GPU {best.index}, {best.name}, has {format_bytes(best.free_bytes)} free"
    if len(usable) > 1:
        reason += f", the most of {len(usable)}"
    elif wanted == "cuda":
        return Device("cuda", best, None)
    return Device("cuda", best, Decision("engine.device", "cuda", reason))


# ---------------------------------------------------------------- engine


def choose_engine(backend: str, facts: Facts, machine: Machine) -> tuple[str, tuple[Candidate, ...]]:
    """(engine, candidates in the order of preference). Raises PlanError where none is left."""
    reasons = {"native": _native_problem(), "pytorch": _pytorch_problem(facts, machine)}
    candidates = []
    chosen = None
    for engine, problem in reasons.items():
        if problem is None and backend not in ("auto", engine):
            problem = f"the recipe asks for {backend}"
        if problem is None and chosen is None:
            chosen = engine
            reason = f"runs {facts.architecture}, weights stored as {facts.weight_dtype} ({facts.format})"
            candidates.append(Candidate(engine, True, reason))
        else:
            candidates.append(Candidate(engine, False, problem or f"{chosen} comes first"))
    if chosen is not None:
        return chosen, tuple(candidates)
    if backend == "native":
        what, fixes = "the recipe asks for an engine that can't be used", ["--set engine.backend=auto"]
    else:
        what, fixes = f"no engine runs {facts.architecture or 'this checkpoint'}", ["use another checkpoint"]
    why = "; ".join(f"{c.engine}: {c.reason}" for c in candidates if backend in ("auto", c.engine))
    raise PlanError(what, where=f"engine.backend: {backend}", why=why, fixes=fixes, candidates=candidates)


def _native_problem() -> str | None:
    return "the native engine is not part of this version"


def _pytorch_problem(facts: Facts, machine: Machine) -> str | None:
    # Each engine states its own limits and costs, torch-free; imported late because it imports the plan's types.
    from deploykit.engine.pytorch.memory import supported

    for package, version in (("torch", machine.torch), ("transformers", machine.transformers)):
        if version is None:
            return f"{package} is not installed"
    return supported(facts)


# ---------------------------------------------------------------- dtype


def choose_dtype(wanted: str, device: Device, machine: Machine) -> tuple[str, Decision | None]:
    """(dtype of weights and activations, why). A dtype that is asked for is honoured, and a slow one is named."""
    if device.gpu is not None:
        major, minor = device.gpu.compute_capability
        fast = (major, minor) >= (8, 0)
        place = f"compute capability {major}.{minor}"
        if wanted == "auto":
            if fast:
                return "bfloat16", Decision("model.dtype", "bfloat16", f"{place} computes it natively")
            return "float16", Decision("model.dtype", "float16", f"{place} has no bfloat16")
        if wanted == "bfloat16" and not fast:
            note = f"asked for; {place} only emulates it, float16 is faster here"
            return wanted, Decision("model.dtype", wanted, note)
        return wanted, None
    flags = machine.cpu.flags
    bf16 = next((flag for flag in _CPU_BFLOAT16 if flag in flags), None)
    if wanted == "auto":
        if bf16:
            return "bfloat16", Decision("model.dtype", "bfloat16", f"the CPU multiplies it natively ({bf16})")
        reason = "the CPU has no bfloat16 instructions (amx_bf16, avx512_bf16)"
        return "float32", Decision("model.dtype", "float32", reason)
    if wanted == "bfloat16" and bf16 is None:
        note = "asked for; slow on a CPU without bfloat16 instructions, at half of float32's memory"
        return wanted, Decision("model.dtype", wanted, note)
    if wanted == "float16" and not any(flag in flags for flag in _CPU_FLOAT16):
        note = "asked for; slow on a CPU without float16 instructions, at half of float32's memory"
        return wanted, Decision("model.dtype", wanted, note)
    return wanted, None
