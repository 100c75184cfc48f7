"""The one door of the planner: `(Recipe, Facts, Machine) -> Plan`, without a look at the disk or the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.plan.check import check_block_len, check_lengths, refuse_unsupported
from deploykit.plan.choose import Device, NativeProblems, choose
from deploykit.plan.fixes import alternatives, not_fit
from deploykit.plan.inputs import place_of, threads_of, wish_of
from deploykit.plan.size import DoesNotFitError, find_sizes
from deploykit.plan.text import format_count
from deploykit.plan.types import Decision, Plan

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
    engine = recipe.engine
    refuse_unsupported(engine)
    facts = facts.with_rope_factor(engine.rope_scaling_factor)
    native = NativeProblems(native_problem, native_cuda_problem)
    choice = choose(recipe, facts, machine, runner=runner, native=native)
    device, candidates = choice.device, choice.candidates
    check_block_len(engine.cache.block_len, device)

    wish = wish_of(engine)
    check_lengths(wish, facts)
    threads = threads_of(engine, machine)
    place = place_of(choice, facts, machine, wish.block_len, threads)
    try:
        sizes = find_sizes(wish, place)
    except DoesNotFitError as error:
        others = alternatives(recipe, facts, machine, choice, runner=runner, native=native)
        raise not_fit(error.sizes, wish, place, candidates, others) from None

    decisions = [
        Decision("engine.backend", choice.engine, next(c.reason for c in candidates if c.accepted)),
        device.decision,
        choice.dtype_decision,
        *sizes.decisions,
        *_notes(recipe, facts, machine, device, threads),
    ]
    if engine.backend != "auto" and runner is None:
        decisions[0] = None
    return Plan(
        name=name,
        engine=choice.engine,
        device=device.kind,
        devices=(device.gpu.index,) if device.gpu else (),
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
        block_len=wish.block_len,
        block_bytes=place.block_bytes,
        num_blocks=sizes.num_blocks,
        prefix_caching=engine.cache.prefix_caching,
        threads=threads,
        rope_scaling_factor=engine.rope_scaling_factor,
        memory=sizes.memory,
        memory_limit=place.limit,
        candidates=candidates,
        decisions=tuple(d for d in decisions if d is not None),
    )


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
    if "ratio" in engine.cache.model_fields_set and (device.kind == "cpu" or engine.cache.blocks):
        why = "engine.cache.blocks comes before it" if engine.cache.blocks else "it counts on a GPU alone"
        note = f"without effect here: {why}"
        notes.append(Decision("engine.cache.ratio", f"{engine.cache.ratio:g}", note))
    if facts.sliding_window:
        window = format_count(facts.sliding_window)
        note = (
            f"the model looks back {window} tokens; its KV memory is planned for whole sessions all the same"
        )
        notes.append(Decision("engine.cache", "full sessions", note))
    return notes
