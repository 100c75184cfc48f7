"""The one door of the planner: `(Recipe, Facts, Machine) -> Plan`, without a look at the disk or the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.plan.changes import holds, that_give_more
from deploykit.plan.choose import Choice, Device, NativeProblems
from deploykit.plan.fixes import not_fit
from deploykit.plan.generations import needs
from deploykit.plan.outline import Inputs, Outline, TooSmallError, device_name, outline
from deploykit.plan.stated import memory_short, refuse_unsupported, too_small
from deploykit.plan.text import format_count
from deploykit.plan.types import Candidate, Change, Decision, Plan

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hardware.machine import Machine
    from deploykit.recipe.schema import Recipe


def make_plan(
    recipe: Recipe,
    facts: Facts,
    machine: Machine,
    *,
    name: str,
    runner: str | None = None,
    native_problem: str | None = None,
    native_cuda_problem: str | None = None,
) -> Plan:
    """Decide everything the engine process is started with, and say why.

    `name` is the deployment's. `runner="fake"` plans the runner of the tests: no weights, on the CPU.
    `native_problem` says why the native library is not there and can't be built, for a CPU, and
    `native_cuda_problem` the same for a GPU; None: it is there, or can be.
    Raises PlanError (exit code 3) where the recipe can't be honoured on this machine.
    """
    native = NativeProblems(native_problem, native_cuda_problem)
    return plan_of(Inputs(recipe, facts, machine, native, runner), name)


def plan_of(inputs: Inputs, name: str) -> Plan:
    """`make_plan` of inputs that are bundled already."""
    recipe, machine = inputs.recipe, inputs.machine
    refuse_unsupported(recipe, inputs.facts, machine)
    try:
        found = outline(inputs)
    except TooSmallError as error:
        raise not_fit(inputs, error.outline) from None
    device = found.choice.device
    if inputs.runner is None and (short := memory_short(recipe, device, machine)):
        rows, limit, name = found.sizes.memory, found.place.limit, device_name(device, machine)
        raise too_small(recipe, short, holds(found), rows, limit, name)
    return _written(inputs, found, name)


def more_of(inputs: Inputs) -> list[Change]:
    """Changes to a plan that fits, after which the KV memory holds more sessions. Raises what `outline` raises."""
    return that_give_more(inputs, outline(inputs))


def _written(inputs: Inputs, found: Outline, name: str) -> Plan:
    """The plan of what was decided, with the reason for every value that was left open."""
    recipe, facts, machine = inputs.recipe, inputs.facts, inputs.machine
    engine, choice, wish, sizes = recipe.engine, found.choice, found.wish, found.sizes
    device, candidates = choice.device, choice.candidates
    decisions = [
        *_backend(choice.engine, device, candidates, engine.backend != "auto" and inputs.runner is None),
        device.decision,
        choice.dtype_decision,
        *sizes.decisions,
        *_head(facts, choice),
        *_notes(recipe, facts, machine, device, found.threads),
    ]
    return Plan(
        name=name,
        engine=choice.engine,
        device=device.kind,
        devices=(device.gpu.index,) if device.gpu else (),
        device_name=device_name(device, machine),
        compute_capability=device.gpu.compute_capability if device.gpu else None,
        model_path=facts.path,
        architecture=facts.architecture,
        dtype=choice.dtype,
        kv_dtype=choice.kv_dtype,
        vocab_size=facts.vocab_size,
        eos_token_ids=facts.eos_token_ids,
        session_len=sizes.session_len,
        max_batch_size=sizes.max_batch_size,
        max_queue=recipe.server.limits.max_queue,
        max_prefill_tokens=sizes.max_prefill_tokens,
        max_step_tokens=sizes.max_step_tokens,
        max_prefill_chunks=wish.max_prefill_chunks,
        block_len=wish.block_len,
        block_bytes=found.place.block_bytes,
        num_blocks=sizes.num_blocks,
        prefix_caching=engine.cache.prefix_caching,
        threads=found.threads,
        rope_scaling_factor=engine.rope_scaling_factor,
        use_logn_attn=engine.use_logn_attn,
        lm_head_dtype=engine.lm_head_dtype,
        needs=needs(machine, device.gpu, choice.engine),
        memory=sizes.memory,
        memory_limit=found.place.limit,
        candidates=candidates,
        decisions=tuple(d for d in decisions if d is not None),
    )


def _head(facts: Facts, choice: Choice) -> list[Decision]:
    """What an int8 output head takes and costs."""
    if not choice.int8_head:
        return []
    from deploykit.engine.native.head import words

    return [Decision("engine.lm_head_dtype", "int8", words(facts, choice.device.kind))]


def _notes(recipe: Recipe, facts: Facts, machine: Machine, device: Device, threads: int) -> list[Decision]:
    """Values that `auto` stood for beside the sizes, and keys that mean nothing on this device."""
    notes = []
    engine = recipe.engine
    if engine.threads == "auto" and device.kind == "cpu":
        notes.append(Decision("engine.threads", str(threads), "the cores that this process may use"))
    elif engine.threads != "auto" and device.kind == "cuda":
        note = "asked for; on a GPU it is only used while weights are read"
        notes.append(Decision("engine.threads", str(threads), note))
    elif device.kind == "cpu" and threads > machine.cpu.cores:
        note = f"asked for; more than the {machine.cpu.cores} cores this process may use, so they take turns"
        notes.append(Decision("engine.threads", str(threads), note))
    if len(machine.gpus) > 1 and device.gpu is not None:
        others = ", ".join(str(gpu.index) for gpu in machine.gpus if gpu.index != device.gpu.index)
        note = (
            f"every engine of this version runs on one device; GPU {others} stays free for another deployment"
        )
        notes.append(Decision("engine.tp", "1", note))
    if facts.sliding_window:
        window = format_count(facts.sliding_window)
        note = (
            f"the model looks back {window} tokens; its KV memory is planned for whole sessions all the same"
        )
        notes.append(Decision("engine.cache", "full sessions", note))
    return notes


def _backend(engine: str, device: Device, candidates: tuple[Candidate, ...], asked: bool) -> list[Decision]:
    """Why this engine, where the recipe left it open; and what is not known of it on such a GPU, in both cases."""
    from deploykit.engine.native.cuda import PTX_RAN, RAN

    words = [] if asked else [next(c.reason for c in candidates if c.accepted)]
    if engine == "native" and device.gpu is not None and device.gpu.compute_capability not in RAN:
        major, minor = device.gpu.compute_capability
        how = (
            "passed its tests on a card of 9.0 alone"
            if (major, minor) in PTX_RAN
            else "are compiled and never ran"
        )
        kernels = f"its kernels for compute capability {major}.{minor} {how}"
        words.append(f"{kernels}; engine.backend: pytorch is the other choice")
    return [Decision("engine.backend", engine, "; ".join(words))] if words else []
