"""The search's inputs: what the recipe asks for, and the device with the engine's costs on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.plan.choose import Choice
from deploykit.plan.memory import kv_bytes_per_token, trained_len
from deploykit.plan.size import Cost, Place, Wish, cpu_limit
from deploykit.plan.types import MemoryItem

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hardware.machine import Machine
    from deploykit.recipe.schema import EngineSection

DEFAULT_RATIO = 0.8
FAKE_RUNTIME = 64 << 20  # an engine process that holds no model


def wish_of(engine: EngineSection) -> Wish:
    def number(value: int | str) -> int | None:
        return value if isinstance(value, int) else None

    return Wish(
        session_len=number(engine.session_len),
        max_batch_size=number(engine.max_batch_size),
        max_prefill_tokens=number(engine.max_prefill_tokens),
        blocks=engine.cache.blocks,
        ratio=engine.cache.ratio or DEFAULT_RATIO,
        block_len=engine.cache.block_len,
        kv_bytes=engine.cache.bytes,
        ratio_given=engine.cache.ratio is not None and "ratio" in engine.cache.model_fields_set,
        max_step_tokens=number(engine.max_step_tokens),
        max_prefill_chunks=engine.max_prefill_chunks,
    )


def threads_of(engine: EngineSection, machine: Machine) -> int:
    """Compute threads on a CPU."""
    return machine.cpu.cores if engine.threads == "auto" else engine.threads


def place_of(choice: Choice, facts: Facts, machine: Machine, block_len: int, threads: int) -> Place:
    """The device with the chosen engine's costs on it."""
    gpu = choice.device.gpu
    if gpu is not None:
        limit = available = gpu.free_bytes
    else:
        available = machine.memory_available
        limit = cpu_limit(machine.memory_total, available)
    block_bytes, cost = _COSTS[choice.engine](choice, facts, block_len, threads)
    return Place(
        kind=choice.device.kind,
        limit=limit,
        available=available,
        trained_len=trained_len(facts),
        block_bytes=block_bytes,
        cost=cost,
    )


# Each engine states its own costs; imported late because they import the plan's types.


def _native(choice: Choice, facts: Facts, block_len: int, threads: int) -> tuple[int, Cost]:
    from deploykit.engine.native.cuda import block_bytes_on_cuda, memory_on_cuda
    from deploykit.engine.native.memory import block_bytes, memory_of

    if choice.device.kind == "cuda":
        blocks = block_bytes_on_cuda(facts, choice.kv_dtype, block_len)
        return blocks, memory_on_cuda(facts, choice.kv_dtype, int8_head=choice.int8_head)
    return block_bytes(facts, choice.kv_dtype, block_len), memory_of(
        facts, threads, int8_head=choice.int8_head
    )


def _pytorch(choice: Choice, facts: Facts, block_len: int, threads: int) -> tuple[int, Cost]:
    from deploykit.engine.pytorch.memory import estimate_memory

    def cost(prefill: int, batch: int, session: int, kv_bytes: int) -> tuple[MemoryItem, ...]:
        return estimate_memory(
            facts,
            dtype=choice.dtype,
            device=choice.device.kind,
            max_prefill_tokens=prefill,
            max_batch_size=batch,
            session_len=session,
            kv_bytes=kv_bytes,
        )

    return block_len * kv_bytes_per_token(facts, choice.kv_dtype), cost


def _fake(choice: Choice, facts: Facts, block_len: int, threads: int) -> tuple[int, Cost]:
    def cost(prefill: int, batch: int, session: int, kv_bytes: int) -> tuple[MemoryItem, ...]:
        return (MemoryItem("kv", kv_bytes, "counted, not allocated"), MemoryItem("runtime", FAKE_RUNTIME))

    return block_len * kv_bytes_per_token(facts, choice.dtype), cost


_COSTS = {"native": _native, "pytorch": _pytorch, "fake": _fake}
