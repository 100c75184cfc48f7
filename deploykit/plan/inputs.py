"""The search's inputs: what the recipe asks for, and the device with the engine's costs on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deploykit.plan.choose import Device
from deploykit.plan.memory import kv_bytes_per_token, trained_len
from deploykit.plan.size import Place, Wish, cpu_limit
from deploykit.plan.types import MemoryItem

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hardware.machine import Machine
    from deploykit.recipe.schema import EngineSection

FAKE_RUNTIME = 64 << 20  # an engine process that holds no model


def wish_of(engine: EngineSection) -> Wish:
    def number(value: int | str) -> int | None:
        return value if isinstance(value, int) else None

    return Wish(
        session_len=number(engine.session_len),
        max_batch_size=number(engine.max_batch_size),
        max_prefill_tokens=number(engine.max_prefill_tokens),
        blocks=engine.cache.blocks,
        ratio=engine.cache.ratio,
        block_len=engine.cache.block_len,
    )


def place_of(engine: str, facts: Facts, machine: Machine, device: Device, dtype: str) -> Place:
    from deploykit.engine.pytorch.memory import estimate_memory

    def pytorch(prefill: int, batch: int, session: int, kv_bytes: int) -> tuple[MemoryItem, ...]:
        return estimate_memory(
            facts,
            dtype=dtype,
            device=device.kind,
            max_prefill_tokens=prefill,
            max_batch_size=batch,
            session_len=session,
            kv_bytes=kv_bytes,
        )

    def fake(prefill: int, batch: int, session: int, kv_bytes: int) -> tuple[MemoryItem, ...]:
        return (MemoryItem("kv", kv_bytes, "counted, not allocated"), MemoryItem("runtime", FAKE_RUNTIME))

    costs: dict[str, Callable[[int, int, int, int], tuple[MemoryItem, ...]]] = {
        "pytorch": pytorch,
        "fake": fake,
    }
    if device.gpu is not None:
        limit = available = device.gpu.free_bytes
    else:
        available = machine.memory_available
        limit = cpu_limit(machine.memory_total, available)
    return Place(
        kind=device.kind,
        limit=limit,
        available=available,
        trained_len=trained_len(facts),
        kv_token_bytes=kv_bytes_per_token(facts, dtype),
        cost=costs[engine],
    )
