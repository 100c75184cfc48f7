"""Changes that make a recipe fit, or fit more: each one is planned again before it is named, cheapest first.

What a change costs is what the person gives up: nothing, then speed, then room, then precision, then the GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploykit.plan.choose import NATIVE_KV
from deploykit.plan.errors import PlanError
from deploykit.plan.memory import blocks_for
from deploykit.plan.outline import Inputs, Outline, TooSmallError, outline
from deploykit.plan.size import Wish
from deploykit.plan.stated import memory_short
from deploykit.plan.text import format_bytes, format_count
from deploykit.plan.types import Change

if TYPE_CHECKING:
    from deploykit.hardware.machine import Machine

FULL_RATIO = 0.95  # the most of a GPU's free memory that is proposed for KV
_SESSION = "engine.session_len"
_MOST_PAIRS = 40  # of two changes at once, tried where no single one does
_KV_COSTS = {
    "int8": (30, "keys and values at 8 bits: no loss that shows"),
    "k8v4": (60, "keys at 8 bits, values at 4: a small loss"),
    "int4": (70, "keys and values at 4 bits: a loss, the larger the smaller the model"),
}


@dataclass(frozen=True)
class _Edit:
    rank: int  # cheap first
    key: str
    value: Any  # SEARCH: the largest that fits
    cost: str


SEARCH = object()


def that_fit(inputs: Inputs, tried: Outline) -> list[Change]:
    """Changes after which it fits: single ones, and two at once where no single one keeps device and session."""
    edits = sorted(_edits(inputs, tried), key=lambda edit: edit.rank)
    found, device = _singles(inputs, edits, tried)
    if all(change.flags.startswith(f"--set {_SESSION}=") for change in found):
        # A shorter session alone does: two changes that keep it may be worth more than it is.
        kept = [edit for edit in edits if edit.key != _SESSION]
        found = _pairs(inputs, kept, tried) + found or _pairs(inputs, edits, tried)
    return found + device


def that_give_more(inputs: Inputs, made: Outline) -> list[Change]:
    """Changes that leave room for more sessions, where the KV memory holds fewer than run at once."""
    if made.sessions >= made.sizes.max_batch_size:
        return []
    held = inputs.changed(_SESSION, made.sizes.session_len)
    held = held.changed("engine.max_batch_size", made.sizes.max_batch_size)
    found = []
    for edit in sorted(_more(inputs, made), key=lambda edit: edit.rank):
        now = _attempt(held.changed(edit.key, edit.value))
        if now is not None and now.sessions > made.sessions and now.choice.device == made.choice.device:
            result = f"{holds(now)}, {made.sessions} without"
            found.append(Change(_flag(edit.key, edit.value), edit.cost, result))
    return found


def first_machine(inputs: Inputs, machines: Iterable[tuple[str, Machine]]) -> Change | None:
    """The first of the named machines on whose GPU it fits as it is."""
    for name, machine in machines:
        # Another machine's library is another question: it can be built there.
        now = _attempt(Inputs(inputs.recipe, inputs.facts, machine, runner=inputs.runner))
        if now is None or memory_short(inputs.recipe, now.choice.device, machine):
            continue
        if now.choice.device.gpu is not None:
            total = format_bytes(now.choice.device.gpu.total_bytes)
            return Change(
                f"--machine {name}", f"another machine: {now.choice.device.gpu.name}, {total}", holds(now)
            )
    return None


# ---------------------------------------------------------------- what could be changed


def _edits(inputs: Inputs, tried: Outline) -> Iterator[_Edit]:
    engine, wish, kind = inputs.recipe.engine, tried.wish, tried.place.kind
    if wish.blocks:
        yield _Edit(10, "engine.cache.blocks", None, "as many KV blocks as the memory holds")
    if wish.kv_bytes is not None:
        yield _Edit(10, "engine.cache.bytes", None, "as many KV blocks as the memory holds")
    if kind == "cpu" and wish.ratio_given:
        yield _Edit(11, "engine.cache.ratio", None, "as many KV blocks as the memory holds")
    if engine.backend != "auto":
        yield _Edit(12, "engine.backend", "auto", "another engine than the one asked for")
    if engine.lm_head_dtype != "auto":  # a copy, where the head is tied
        yield _Edit(13, "engine.lm_head_dtype", "auto", "the output head as it is stored: slower decoding")
    if wish.max_prefill_tokens:
        yield _Edit(
            15, "engine.max_prefill_tokens", "auto", "shorter steps: long prompts are read more slowly"
        )
    if wish.max_prefill_chunks:
        yield _Edit(16, "engine.max_prefill_chunks", None, "long prompts are read in more, smaller steps")
    if wish.max_step_tokens:
        yield _Edit(17, "engine.max_step_tokens", "auto", "steps of another size")
    if kind == "cuda" and _is_share(wish) and wish.ratio < FULL_RATIO:
        yield _Edit(20, "engine.cache.ratio", FULL_RATIO, "less memory left for other programs on the GPU")
    if engine.device == "cpu" and inputs.machine.gpus:
        yield _Edit(25, "engine.device", "cuda", "the GPU is taken")
    yield from _smaller_kv(inputs)
    if tried.sizes.max_batch_size > 1:
        yield _Edit(40, "engine.max_batch_size", SEARCH, "fewer requests run at once")
    if wish.session_len:
        yield _Edit(50, _SESSION, SEARCH, "shorter conversations")
    if inputs.recipe.model.dtype == "float32" or (inputs.recipe.model.dtype == "auto" and kind == "cpu"):
        yield _Edit(65, "model.dtype", "bfloat16", "weights and activations at 16 bits")
    if kind == "cuda":
        yield _Edit(80, "engine.device", "cpu", "many times slower than the GPU")


def _more(inputs: Inputs, made: Outline) -> Iterator[_Edit]:
    wish, sizes, place = made.wish, made.sizes, made.place
    if place.kind == "cuda" and _is_share(wish) and wish.ratio < FULL_RATIO:
        yield _Edit(20, "engine.cache.ratio", FULL_RATIO, "less memory left for other programs on the GPU")
    if place.kind == "cpu" or not _is_share(wish):
        left = place.limit - sum(item.bytes for item in sizes.memory)
        full = sizes.max_batch_size * blocks_for(sizes.session_len, wish.block_len)
        blocks = min(full, sizes.num_blocks + max(0, left) // place.block_bytes)
        more = format_bytes((blocks - sizes.num_blocks) * place.block_bytes)
        if wish.kv_bytes is not None:
            yield _Edit(20, "engine.cache.bytes", blocks * place.block_bytes, f"{more} more of the memory")
        elif not wish.ratio_given or wish.blocks:
            yield _Edit(20, "engine.cache.blocks", blocks, f"{more} more of the memory")
    yield from _smaller_kv(inputs)


def _is_share(wish: Wish) -> bool:
    return wish.blocks is None and wish.kv_bytes is None


def _smaller_kv(inputs: Inputs) -> Iterator[_Edit]:
    policy = inputs.recipe.engine.cache.quant_policy
    eight = "int8" if policy == "fp8" else policy  # as many bits
    smaller = NATIVE_KV[NATIVE_KV.index(eight) + 1 :] if eight in NATIVE_KV else NATIVE_KV
    for name in smaller:
        rank, cost = _KV_COSTS[name]
        yield _Edit(rank, "engine.cache.quant_policy", name, cost)


# ---------------------------------------------------------------- trying them


def _singles(inputs: Inputs, edits: list[_Edit], tried: Outline) -> tuple[list[Change], list[Change]]:
    """(changes that stay on the device, those that leave it)."""
    found: dict[str, Change] = {}
    device = []
    for edit in edits:
        if edit.key in found:  # a cheaper value of the same key does already
            continue
        solved = _solve(inputs, edit, tried)
        if solved is None:
            continue
        value, now = solved
        change = Change(_flag(edit.key, value), edit.cost, holds(now, tried))
        if edit.key == "engine.device" and value == "cpu":
            device.append(change)
        else:
            found[edit.key] = change
    return list(found.values()), device


def _pairs(inputs: Inputs, edits: list[_Edit], tried: Outline) -> list[Change]:
    """The cheapest two changes that do together."""
    kept = [edit for edit in edits if edit.key != "engine.device"]
    pairs = [pair for pair in itertools.combinations(kept, 2) if pair[0].key != pair[1].key]
    pairs = [pair for pair in pairs if pair[0].value is not SEARCH]  # the search comes last
    for first, second in sorted(pairs, key=lambda pair: pair[0].rank + pair[1].rank)[:_MOST_PAIRS]:
        solved = _solve(inputs.changed(first.key, first.value), second, tried)
        if solved is not None:
            value, now = solved
            flags = f"{_flag(first.key, first.value)} {_flag(second.key, value)}"
            return [Change(flags, f"{first.cost}; {second.cost}", holds(now, tried))]
    return []


def _solve(inputs: Inputs, edit: _Edit, tried: Outline) -> tuple[Any, Outline] | None:
    """(the value, what it makes) where it fits; a value that is searched for is the largest of its kind."""
    if edit.value is not SEARCH:
        if inputs.value(edit.key) == edit.value:
            return None
        now = _attempt(inputs.changed(edit.key, edit.value))
        return None if now is None else (edit.value, now)
    if edit.key == _SESSION:
        asked = inputs.value(edit.key)
        free = _attempt(inputs.changed(edit.key, "auto"))
        values = [min(free.sizes.session_len, asked)] if free is not None else []
    else:
        rows = tried.sizes.max_batch_size
        values = [rows >> shift for shift in range(1, rows.bit_length())]
    for value in values:
        now = _attempt(inputs.changed(edit.key, value))
        if now is not None:
            return value, now
    return None


def _attempt(inputs: Inputs) -> Outline | None:
    try:
        return outline(inputs)
    except (PlanError, TooSmallError):
        return None


def _flag(key: str, value: Any) -> str:
    return f"--set {key}={'null' if value is None else value}"


def holds(now: Outline, before: Outline | None = None) -> str:
    plural = "session" if now.sessions == 1 else "sessions"
    moved = before is not None and before.place.kind != now.place.kind
    place = f" on the {'GPU' if now.place.kind == 'cuda' else 'CPU'}" if moved else ""
    return f"{format_count(now.sessions)} full {plural} of {format_count(now.sizes.session_len)}{place}"
