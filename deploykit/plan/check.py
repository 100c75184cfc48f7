"""What is refused before any arithmetic: keys this version can't honour and lengths that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.plan.choose import Device
from deploykit.plan.errors import PlanError
from deploykit.plan.memory import trained_len
from deploykit.plan.size import Wish
from deploykit.plan.text import format_count

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.recipe.schema import EngineSection


def refuse_unsupported(engine: EngineSection) -> None:
    if engine.tp > 1:
        raise PlanError(
            f"tensor parallelism over {engine.tp} devices is not part of this version",
            where=f"engine.tp: {engine.tp}",
            why="every engine of this version runs on one device",
            fixes=["--set engine.tp=1"],
        )


def check_block_len(block_len: int, device: Device) -> None:
    if device.gpu is None:
        good = 8 <= block_len <= 256 and block_len & (block_len - 1) == 0
        rule = "a power of two from 8 to 256 on a CPU"
    else:
        unit = 32 if device.gpu.compute_capability >= (8, 0) else 64
        good = block_len % unit == 0
        rule = f"a multiple of {unit} on {device.gpu.name}"
    if not good:
        raise PlanError(
            f"blocks of {block_len} tokens are not possible here",
            where=f"engine.cache.block_len: {block_len}",
            why=f"the attention kernels want {rule}",
            fixes=["--set engine.cache.block_len=64"],
        )


def check_lengths(wish: Wish, facts: Facts) -> None:
    trained = trained_len(facts)
    if wish.session_len and wish.session_len > trained:
        raise PlanError(
            f"a session of {format_count(wish.session_len)} tokens is longer than the model can read",
            where=f"engine.session_len: {wish.session_len}",
            why=f"it was trained for {format_count(trained)} tokens and its config.json stretches them no further",
            fixes=[
                f"--set engine.session_len={trained}",
                "a checkpoint whose config.json has rope scaling (yarn, linear, dynamic) for that length",
            ],
        )
    if wish.max_batch_size and wish.max_prefill_tokens and wish.max_prefill_tokens < wish.max_batch_size:
        raise PlanError(
            f"a step of {wish.max_prefill_tokens} tokens can't serve {wish.max_batch_size} rows",
            where=f"engine.max_prefill_tokens: {wish.max_prefill_tokens}",
            why="every running row takes at least one token of a step",
            fixes=[
                f"--set engine.max_prefill_tokens={wish.max_batch_size}",
                f"--set engine.max_batch_size={wish.max_prefill_tokens}",
            ],
        )
    if wish.blocks and wish.session_len and wish.blocks * wish.block_len < wish.session_len:
        need = -(-wish.session_len // wish.block_len)
        raise PlanError(
            f"{wish.blocks} KV blocks hold less than one session of {format_count(wish.session_len)} tokens",
            where=f"engine.cache.blocks: {wish.blocks}",
            why=f"a block holds {wish.block_len} tokens, so that they hold {wish.blocks * wish.block_len}",
            fixes=[
                f"--set engine.cache.blocks={need}",
                f"--set engine.session_len={wish.blocks * wish.block_len}",
            ],
        )
