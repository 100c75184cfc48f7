"""What is refused before any arithmetic: keys this version can't honour and lengths that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.plan.choose import Device
from deploykit.plan.errors import PlanError
from deploykit.plan.memory import blocks_for, trained_len
from deploykit.plan.size import Wish
from deploykit.plan.text import format_bytes, format_count

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
    place = "a CPU"
    if device.gpu is None:
        good = 8 <= block_len <= 256 and block_len & (block_len - 1) == 0
        rule = "a power of two from 8 to 256 on a CPU"
    else:
        unit = 32 if device.gpu.compute_capability >= (8, 0) else 64
        good = block_len % unit == 0
        generation = "from compute capability 8.0 on" if unit == 32 else "before compute capability 8.0"
        rule = f"a multiple of {unit} on a GPU {generation}"
        major, minor = device.gpu.compute_capability
        place = f"GPU {device.gpu.index}, {device.gpu.name}, compute capability {major}.{minor}"
    if not good:
        raise PlanError(
            f"blocks of {block_len} tokens are not possible here",
            where=f"engine.cache.block_len: {block_len}; engine.device: {place}",
            why=f"the attention kernels want {rule}",
            fixes=["--set engine.cache.block_len=64"],
        )


def check_lengths(wish: Wish, facts: Facts, *, stretched: bool = False) -> None:
    """`stretched`: the recipe asks for dynamic NTK scaling itself, whose base grows with the session, without end."""
    trained = trained_len(facts)
    if wish.session_len and wish.session_len > trained and not stretched:
        raise PlanError(
            f"a session of {format_count(wish.session_len)} tokens is longer than the model can read",
            where=f"engine.session_len: {wish.session_len}",
            why=f"it was trained for {format_count(trained)} tokens and its config.json stretches them no further",
            fixes=[
                f"--set engine.session_len={trained}",
                "a checkpoint whose config.json has rope scaling (yarn, linear, dynamic) for that length",
            ],
        )
    _check_step(wish)
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


def _check_step(wish: Wish) -> None:
    """The three keys of a step, and the rows and the session that they serve."""
    step, tokens, chunks, rows = (
        wish.max_step_tokens,
        wish.max_prefill_tokens,
        wish.max_prefill_chunks,
        wish.max_batch_size,
    )
    if step and rows and step <= rows:
        raise PlanError(
            f"a step of {step} tokens leaves nothing for prompts beside {rows} requests that decode",
            where=f"engine.max_step_tokens: {step}; engine.max_batch_size: {rows}",
            why="every request that decodes takes a token of each step, and prompts have the rest",
            fixes=[f"--set engine.max_step_tokens={rows + 1}", f"--set engine.max_batch_size={step - 1}"],
        )
    if tokens and rows and not step and tokens < rows:
        raise PlanError(
            f"a step of {tokens} tokens can't serve {rows} rows",
            where=f"engine.max_prefill_tokens: {tokens}; engine.max_batch_size: {rows}",
            why="every running row takes at least one token of a step",
            fixes=[
                f"--set engine.max_prefill_tokens={rows}",
                f"--set engine.max_batch_size={tokens}",
            ],
        )
    if tokens and step and not chunks and tokens > step:
        raise PlanError(
            f"a step of {step} tokens never reads {tokens} of a prompt",
            where=f"engine.max_prefill_tokens: {tokens}; engine.max_step_tokens: {step}",
            why="prompts have what requests that decode leave of a step",
            fixes=["--set engine.max_prefill_tokens=auto", f"--set engine.max_step_tokens={tokens}"],
        )
    if tokens and chunks and wish.session_len and tokens * chunks < wish.session_len:
        need = -(-wish.session_len // chunks)
        raise PlanError(
            f"{chunks} chunks of {tokens} tokens don't read a prompt of {wish.session_len}",
            where=f"engine.max_prefill_chunks: {chunks}; engine.max_prefill_tokens: {tokens}; "
            f"engine.session_len: {wish.session_len}",
            why="a prompt may be as long as a session, and each step reads max_prefill_tokens of it at most",
            fixes=[f"--set engine.max_prefill_tokens={need}", "--set engine.max_prefill_tokens=auto"],
        )


def check_pool(wish: Wish, block_bytes: int) -> None:
    """KV memory in bytes holds one session, or one block where the session's length is left open."""
    if wish.kv_bytes is None:
        return
    need = blocks_for(wish.session_len or 1, wish.block_len) * block_bytes
    if wish.kv_bytes < need:
        what = f"one session of {format_count(wish.session_len)} tokens" if wish.session_len else "one block"
        raise PlanError(
            f"{format_bytes(wish.kv_bytes)} of KV memory hold less than {what}",
            where=f"engine.cache.bytes: {wish.kv_bytes}",
            why=f"a block of {wish.block_len} tokens takes {format_bytes(block_bytes)}",
            fixes=[f"--set engine.cache.bytes={need}"],
        )
