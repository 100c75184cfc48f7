"""Which device, which engine, which dtype: ranked, and with a reason for every rejection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from deploykit.plan.attention import unsupported_attention
from deploykit.plan.errors import PlanError
from deploykit.plan.generations import MIN_COMPUTE_CAPABILITY as MIN_COMPUTE_CAPABILITY
from deploykit.plan.generations import too_old, torch_lacks
from deploykit.plan.outlook import outlook
from deploykit.plan.text import format_bytes
from deploykit.plan.types import Candidate, Decision
from deploykit.plan.vision import unsupported_images

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hardware.machine import GPU, Machine
    from deploykit.recipe.schema import EngineSection, Recipe

NATIVE_KV = ("int8", "k8v4", "int4")  # quantized KV memory that the native engine has everywhere
_CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
_CPU_FLOAT16 = ("amx_fp16", "avx512_fp16", "fp16")


class NativeProblems(NamedTuple):
    """Why the native library is not there and can't be built, by device; None: it is there, or can be."""

    cpu: str | None = None
    cuda: str | None = None


@dataclass(frozen=True)
class Device:
    kind: str  # cpu | cuda
    gpu: GPU | None
    decision: Decision | None  # None where the recipe left nothing to choose


# ---------------------------------------------------------------- device


def gpu_problem(machine: Machine, gpu: GPU) -> str | None:
    """Why this GPU can't be used, or None."""
    if reason := too_old(machine, gpu):
        return reason
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


def choose_engine(
    engine: EngineSection,
    facts: Facts,
    machine: Machine,
    device: Device,
    native: NativeProblems,
    dtype: str = "auto",
) -> tuple[str, tuple[Candidate, ...]]:
    """(engine, candidates in the order of preference). Raises PlanError where none is left."""
    backend, policy = engine.backend, engine.cache.quant_policy
    kind = unsupported_attention(facts) or unsupported_images(facts)
    problems = {
        "native": kind or _native_problem(facts, device, native, dtype),
        "pytorch": kind or _pytorch_problem(facts, machine, device),
    }
    candidates = []
    chosen = None
    only = ""  # the key that alone speaks against an engine: its KV memory, or its output head
    for name, problem in problems.items():
        if problem is None and backend not in ("auto", name):
            problem = f"the recipe asks for {backend}"
        if problem is None and name == "pytorch" and engine.rope_scaling_factor is not None:
            problem = "it applies the checkpoint's own rotary scaling alone (engine.rope_scaling_factor)"
        if problem is None and (problem := _kv_problem(name, policy, device)):
            only = "engine.cache.quant_policy"
        if problem is None and (problem := _head_problem(name, engine.lm_head_dtype, facts, device)):
            only = only or "engine.lm_head_dtype"
        if problem is None and chosen is None:
            chosen = name
            reason = f"runs {facts.architecture}, weights stored as {facts.weight_dtype} ({facts.format})"
            candidates.append(Candidate(name, True, reason))
        else:
            candidates.append(Candidate(name, False, problem or f"{chosen} comes first"))
    if chosen is not None:
        return chosen, tuple(candidates)
    why = "; ".join(f"{c.engine}: {c.reason}" for c in candidates if backend in ("auto", c.engine))
    if only == "engine.lm_head_dtype":
        raise PlanError(
            f"an {engine.lm_head_dtype} output head can't be had here",
            where=f"{only}: {engine.lm_head_dtype}",
            why=why,
            fixes=[f"--set {only}=auto"],
            candidates=candidates,
        )
    if only:
        raise PlanError(
            f"{policy} KV memory can't be had here",
            where=f"engine.cache.quant_policy: {policy}",
            why=why,
            fixes=["--set engine.cache.quant_policy=none"],
            candidates=candidates,
        )
    if kind:
        what, fixes = f"no engine runs {facts.architecture or 'this checkpoint'}", ["use another checkpoint"]
        raise PlanError(
            what,
            where=facts.path,
            why=kind,
            fixes=fixes,
            candidates=candidates,
            memory_limit=machine.memory_available if device.gpu is None else device.gpu.free_bytes,
            outlook=outlook(facts, engine),
        )
    if backend == "native":
        what, fixes = "the recipe asks for an engine that can't be used", ["--set engine.backend=auto"]
    else:
        what, fixes = f"no engine runs {facts.architecture or 'this checkpoint'}", ["use another checkpoint"]
    raise PlanError(what, where=f"engine.backend: {backend}", why=why, fixes=fixes, candidates=candidates)


def _native_problem(facts: Facts, device: Device, native: NativeProblems, dtype: str) -> str | None:
    # Each engine states its own limits and costs, torch-free; imported late because it imports the plan's types.
    from deploykit.engine.native.cuda import supported_on_cuda
    from deploykit.engine.native.memory import supported

    if device.gpu is not None and dtype == "float32":
        return "on a GPU it computes in bfloat16 or float16"
    if device.gpu is not None:
        capability = device.gpu.compute_capability
        problem, library = supported_on_cuda(facts, capability, dtype), native.cuda
    else:
        problem, library = supported(facts), native.cpu
    return problem or (f"its library is not built and can't be: {library}" if library else None)


def _pytorch_problem(facts: Facts, machine: Machine, device: Device) -> str | None:
    from deploykit.engine.pytorch.memory import supported

    for package, version in (("torch", machine.torch), ("transformers", machine.transformers)):
        if version is None:
            return f"{package} is not installed"
    return supported(facts) or torch_lacks(machine, device.gpu)


def _kv_problem(engine: str, policy: str, device: Device) -> str | None:
    """Why the engine can't keep KV memory so."""
    if policy == "none":
        return None
    if engine == "pytorch":
        return "it keeps keys and values in the dtype it computes in"
    if device.gpu is not None:
        from deploykit.engine.native.cuda import kv_problem_on_cuda

        return kv_problem_on_cuda(policy, device.gpu.compute_capability)
    return None if policy in NATIVE_KV else f"on a CPU it has {', '.join(NATIVE_KV)} and no {policy}"


def _head_problem(engine: str, wanted: str, facts: Facts, device: Device) -> str | None:
    """Why the engine can't keep the output head so."""
    if wanted == "auto":
        return None
    if engine == "pytorch":
        return "it keeps the output head in the dtype it computes in"
    from deploykit.engine.native.head import head_problem

    return head_problem(facts, device.kind)


# ---------------------------------------------------------------- dtype


def choose_dtype(
    wanted: str, device: Device, machine: Machine, engine: str, facts: Facts
) -> tuple[str, Decision | None]:
    """(dtype of activations and of plain weights, why). One that is asked for is honoured, and a slow one named."""
    if device.gpu is not None:
        stored = facts.quant_method or facts.weight_dtype
        if engine == "native" and wanted == "auto" and stored in ("awq", "gptq", "float16"):
            return "float16", Decision(
                "model.dtype", "float16", "the checkpoint's scales and weights are stored so"
            )
        return _gpu_dtype(wanted, device.gpu)
    if engine == "native":
        return _native_dtype(wanted, facts)
    return _cpu_dtype(wanted, machine)


def _gpu_dtype(wanted: str, gpu: GPU) -> tuple[str, Decision | None]:
    major, minor = gpu.compute_capability
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


def _native_dtype(wanted: str, facts: Facts) -> tuple[str, Decision | None]:
    """The native engine keeps weights as they are stored; the dtype is of KV memory and of what meets them."""
    stored = facts.weight_dtype
    if wanted == "auto":
        if stored == "float32":
            return "float32", Decision("model.dtype", "float32", "the weights are stored so")
        if stored in ("bfloat16", "float16"):
            return "bfloat16", Decision("model.dtype", "bfloat16", f"weights stay {stored}, as stored")
        reason = f"weights stay {stored}, as stored, and meet activations of 8 bits"
        return "bfloat16", Decision("model.dtype", "bfloat16", reason)
    if wanted == "float32" and stored not in ("float32", "bfloat16", "float16"):
        note = f"asked for; {stored} weights are multiplied in float32, several times slower"
        return wanted, Decision("model.dtype", wanted, note)
    return wanted, None


def _cpu_dtype(wanted: str, machine: Machine) -> tuple[str, Decision | None]:
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


# ---------------------------------------------------------------- all together


@dataclass(frozen=True)
class Choice:
    """What is decided before any size is."""

    device: Device
    engine: str
    candidates: tuple[Candidate, ...]
    dtype: str
    dtype_decision: Decision | None
    kv_dtype: str
    int8_head: bool = False  # the native engine's


def choose(
    recipe: Recipe, facts: Facts, machine: Machine, *, runner: str | None, native: NativeProblems
) -> Choice:
    """Device, engine, dtype and KV memory's dtype. `runner="fake"` is for tests. Raises PlanError."""
    if runner == "fake":
        device = Device("cpu", None, None)
        engine = "fake"
        candidates: tuple[Candidate, ...] = (Candidate("fake", True, "the test switch asks for it"),)
    elif runner is None:
        device = choose_device(recipe.engine.device, machine)
        engine, candidates = choose_engine(recipe.engine, facts, machine, device, native, recipe.model.dtype)
    else:
        raise ValueError(f"runner: {runner!r} is neither None nor 'fake'")
    dtype, decision = choose_dtype(recipe.model.dtype, device, machine, engine, facts)
    policy = recipe.engine.cache.quant_policy
    int8_head = engine == "native" and recipe.engine.lm_head_dtype == "int8"
    kv_dtype = dtype if policy == "none" else policy
    return Choice(device, engine, candidates, dtype, decision, kv_dtype, int8_head)
