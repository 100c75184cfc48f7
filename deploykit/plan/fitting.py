"""What is changed about a recipe that nobody wrote, so that it fits: the cheapest of the changes that were planned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from deploykit.plan.changes import that_fit
from deploykit.plan.make import plan_of
from deploykit.plan.outline import Inputs, TooSmallError, outline
from deploykit.plan.types import Change, Decision, Plan

if TYPE_CHECKING:
    from deploykit.recipe.schema import Recipe

OTHERWISE = "it does not fit otherwise"
# What a person has to ask for: another device or engine than the best, and weights in another precision.
_NOT_BY_ITSELF = ("engine.device", "engine.backend", "model.dtype")


class Edit(NamedTuple):
    """One key, its new value, and what is given up for it."""

    key: str
    value: Any
    cost: str


def fitting(inputs: Inputs, free: tuple[str, ...] = ()) -> tuple[Inputs, tuple[Edit, ...]]:
    """The inputs after the cheapest change that makes them fit; unchanged where they do, or where nothing helps.

    Keys that the recipe states stay as they are, those in `free` aside. Raises PlanError where the recipe can't be
    honoured at all.
    """
    try:
        outline(inputs)
    except TooSmallError as error:
        for change in that_fit(inputs, error.outline):
            edits = _edits(change)
            held = [edit.key for edit in edits if edit.key not in free and is_stated(inputs.recipe, edit.key)]
            if not held and not any(edit.key in _NOT_BY_ITSELF for edit in edits):
                for edit in edits:
                    inputs = inputs.changed(edit.key, edit.value)
                return inputs, edits
    return inputs, ()


def _edits(change: Change) -> tuple[Edit, ...]:
    """The keys and values that a change's flags set: `--set a.b=1 --set c=x`, its cost `first; second`."""
    flags = change.flags.removeprefix("--set ").split(" --set ")
    costs = change.cost.split("; ")
    if len(costs) != len(flags):
        costs = [change.cost] * len(flags)
    return tuple(
        Edit(key, _value(text), cost)
        for (key, _, text), cost in zip((flag.partition("=") for flag in flags), costs, strict=True)
    )


def _value(text: str) -> Any:
    if text == "null":
        return None
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def is_stated(recipe: Recipe, key: str) -> bool:
    """Whether somebody gave this key a value, in a file or after --set."""
    section: Any = recipe
    for part in key.split("."):
        if part not in section.model_fields_set:
            return False
        section = getattr(section, part)
    return bool(section != "auto")


def plan_fitting(inputs: Inputs, name: str) -> tuple[Inputs, Plan]:
    """The plan of a recipe that nobody wrote, and what it was made from; what had to be changed is among its decisions.

    Raises PlanError where no change that goes without asking makes it fit.
    """
    inputs, edits = fitting(inputs)
    return inputs, with_changes(plan_of(inputs, name), edits)


def with_changes(plan: Plan, edits: tuple[Edit, ...]) -> Plan:
    """The plan with what was changed among its decisions."""
    changes = tuple(Decision(e.key, str(e.value), f"{e.cost}; {OTHERWISE}") for e in edits)
    return msgspec.structs.replace(plan, decisions=(*changes, *plan.decisions))


def changes_in(plan: Plan) -> list[str]:
    """What `with_changes` added, in words."""
    return [f"{d.key} {d.value} ({d.reason})" for d in plan.decisions if d.reason.endswith(OTHERWISE)]
