"""What to do when a recipe does not fit: every change that is proposed was tried and does fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deploykit.plan.check import check_block_len
from deploykit.plan.choose import Choice, NativeProblems, choose
from deploykit.plan.errors import PlanError, memory_why
from deploykit.plan.inputs import place_of, threads_of, wish_of
from deploykit.plan.size import DoesNotFitError, Place, Sizes, Wish, find_sizes
from deploykit.plan.text import format_bytes
from deploykit.plan.types import Candidate

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hardware.machine import Machine
    from deploykit.recipe.schema import Recipe

FULL_RATIO = 0.95  # the most of a GPU's free memory that is proposed for KV


def alternatives(
    recipe: Recipe,
    facts: Facts,
    machine: Machine,
    choice: Choice,
    *,
    runner: str | None,
    native: NativeProblems,
) -> list[str]:
    """Other devices and dtypes that do fit, as flags."""
    device = choice.device
    changes: list[tuple[str, str, str]] = []
    if recipe.model.dtype == "float32" or (recipe.model.dtype == "auto" and device.kind == "cpu"):
        changes.append(("model", "dtype", "bfloat16"))
    if device.kind == "cuda":
        changes.append(("engine", "device", "cpu"))
    elif recipe.engine.device == "cpu" and machine.gpus:
        changes.append(("engine", "device", "cuda"))
    found = []
    for section, key, value in changes:
        part = getattr(recipe, section).model_copy(update={key: value})
        if part == getattr(recipe, section):
            continue
        try:
            _try_plan(recipe.model_copy(update={section: part}), facts, machine, runner, native)
        except PlanError:
            continue
        found.append(f"--set {section}.{key}={value}")
    return found


def _try_plan(
    recipe: Recipe, facts: Facts, machine: Machine, runner: str | None, native: NativeProblems
) -> None:
    """Raise PlanError where the recipe doesn't fit, without looking for alternatives again."""
    choice = choose(recipe, facts, machine, runner=runner, native=native)
    wish = wish_of(recipe.engine)
    check_block_len(wish.block_len, choice.device)
    try:
        find_sizes(wish, place_of(choice, facts, machine, wish.block_len, threads_of(recipe.engine, machine)))
    except DoesNotFitError:
        raise PlanError("does not fit") from None


def not_fit(
    sizes: Sizes, wish: Wish, place: Place, candidates: tuple[Candidate, ...], others: list[str]
) -> PlanError:
    fixes = []
    if wish.blocks and _fits(replace(wish, blocks=None), place):
        fixes.append("--set engine.cache.blocks=null")
    if wish.max_prefill_tokens and _fits(replace(wish, max_prefill_tokens=None), place):
        fixes.append("--set engine.max_prefill_tokens=auto")
    if place.kind == "cuda" and wish.ratio < FULL_RATIO and _fits(replace(wish, ratio=FULL_RATIO), place):
        fixes.append(f"--set engine.cache.ratio={FULL_RATIO}")
    if wish.session_len and (shorter := _fits(replace(wish, session_len=None), place)):
        fixes.append(f"--set engine.session_len={min(shorter.session_len, wish.session_len)}")
    if fewer := _fewer_rows(wish, place, sizes.max_batch_size):
        fixes.append(f"--set engine.max_batch_size={fewer}")
    fixes += others
    total = sum(item.bytes for item in sizes.memory)
    where = "of memory" if place.kind == "cpu" else "of GPU memory"
    if place.limit <= 0 and place.available <= 0:
        why = "this system doesn't say how much memory it has left"
    else:
        why = memory_why(sizes.memory, place.limit, "that may be used")
        if place.kind == "cuda" and not wish.blocks:
            why += f"; KV memory may take {wish.ratio:.0%} of what the rest leaves"
    if not fixes:
        missing = format_bytes(total - place.limit)
        fixes.append(f"a smaller model, or {missing} more {where} free")
    return PlanError(
        "the model does not fit on this machine",
        where=f"{place.kind}: {format_bytes(place.limit)} {where} may be used",
        why=why,
        fixes=fixes,
        candidates=candidates,
        memory=sizes.memory,
        memory_limit=place.limit,
    )


def _fits(wish: Wish, place: Place) -> Sizes | None:
    try:
        return find_sizes(wish, place)
    except DoesNotFitError:
        return None


def _fewer_rows(wish: Wish, place: Place, rows: int) -> int | None:
    while (rows := rows // 2) >= 1:
        if _fits(replace(wish, max_batch_size=rows), place):
            return rows
    return None
