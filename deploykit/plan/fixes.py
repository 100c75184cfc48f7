"""The refusal of what does not fit: the memory table, what is missing, and the changes that would do."""

from __future__ import annotations

from deploykit.plan.changes import that_fit
from deploykit.plan.errors import PlanError, memory_why
from deploykit.plan.outline import Inputs, Outline, device_name
from deploykit.plan.stated import ANYWAY, memory_short
from deploykit.plan.text import format_bytes
from deploykit.plan.types import Change


def not_fit(inputs: Inputs, tried: Outline) -> PlanError:
    """`tried` has the smallest sizes that were tried."""
    place, sizes, wish = tried.place, tried.sizes, tried.wish
    changes = that_fit(inputs, tried)
    if memory_short(inputs.recipe, tried.choice.device, inputs.machine):
        changes = [Change(f"{c.flags} {ANYWAY}", c.cost, c.result) for c in changes]
    total = sum(item.bytes for item in sizes.memory)
    where = "of memory" if place.kind == "cpu" else "of GPU memory"
    if place.limit <= 0 and place.available <= 0:
        why = "this system doesn't say how much memory it has left"
    else:
        why = memory_why(sizes.memory, place.limit, "that may be used")
        if place.kind == "cuda" and not wish.blocks and wish.kv_bytes is None:
            why += f"; KV memory may take {wish.ratio:.0%} of what the rest leaves"
    fixes = [change.flags for change in changes]
    if not fixes:
        short = total - place.limit
        more = f"{format_bytes(short)} more" if short > 0 else "more"
        fixes.append(f"a smaller model, or {more} {where} free")
    return PlanError(
        "the model does not fit on this machine",
        where=f"{device_name(tried.choice.device, inputs.machine)}: {format_bytes(place.limit)} {where} may be used",
        why=why,
        fixes=fixes,
        candidates=tried.choice.candidates,
        memory=sizes.memory,
        memory_limit=place.limit,
        changes=changes,
        device_name=device_name(tried.choice.device, inputs.machine),
    )
