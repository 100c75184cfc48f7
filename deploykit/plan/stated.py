"""What a recipe itself says of its model and of machines: `unsupported` and `requires`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.plan.choose import Device, choose_device
from deploykit.plan.errors import PlanError
from deploykit.plan.outlook import outlook
from deploykit.plan.text import format_bytes
from deploykit.plan.types import Change, MemoryItem

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hardware.machine import Machine
    from deploykit.recipe.schema import Recipe

ANYWAY = "--set requires.memory=null"


# ---------------------------------------------------------------- unsupported


def refuse_unsupported(recipe: Recipe, facts: Facts | None = None, machine: Machine | None = None) -> None:
    """Raises PlanError where the recipe says that no engine runs its model.

    With facts, the error's memory table has what would be taken as far as a formula is known.
    """
    if recipe.unsupported is None:
        return
    device, limit = (None, 0) if machine is None else _device(recipe, machine)
    raise PlanError(
        f"no engine of this version runs {facts.architecture if facts else 'this model'}",
        where="unsupported",
        why=recipe.unsupported.strip(),
        fixes=["use another recipe: `deploykit ls` shows those that run"],
        outlook=None if facts is None else outlook(facts, recipe.engine),
        memory_limit=limit,
        device_name=device or "",
    )


def _device(recipe: Recipe, machine: Machine) -> tuple[str | None, int]:
    try:
        device = choose_device(recipe.engine.device, machine)
    except PlanError:
        return None, 0
    return _words(device), free_bytes(device, machine)


# ---------------------------------------------------------------- requires


def check_machine(recipe: Recipe, machine: Machine) -> None:
    """Raises PlanError where the machine has less than the recipe requires; before anything is known of the model."""
    if recipe.requires.memory is None and not recipe.requires.gpu and not recipe.requires.compute_capability:
        return
    device = choose_device(recipe.engine.device, machine)
    check_device(recipe, device)
    if short := memory_short(recipe, device, machine):
        raise PlanError(
            "the machine has less memory free than the recipe requires",
            where=_where(recipe),
            why=short,
            fixes=["a smaller variant of the model, or a machine with more", ANYWAY],
        )


def check_device(recipe: Recipe, device: Device) -> None:
    """Raises PlanError where the device that serves is not of the kind that the recipe requires."""
    requires, gpu = recipe.requires, device.gpu
    if requires.gpu and gpu is None:
        why = device.decision.reason if device.decision else "engine.device: cpu"
        fixes = ["a machine with a GPU", "--set requires.gpu=false"]
        raise PlanError(
            "the recipe requires a GPU, and a CPU would serve",
            where="requires.gpu: true",
            why=why,
            fixes=fixes,
        )
    least = requires.compute_capability
    if least is None or gpu is None:
        return
    major, minor = gpu.compute_capability
    if (major, minor) < tuple(int(part) for part in least.split(".")):
        raise PlanError(
            f"the recipe requires a GPU of compute capability {least} or newer",
            where=f"requires.compute_capability: {least}",
            why=f"{gpu.name} has {major}.{minor}",
            fixes=["a newer GPU", "--set requires.compute_capability=null"],
        )


def memory_short(recipe: Recipe, device: Device, machine: Machine) -> str | None:
    """What is free against what the recipe requires, in words, where it is less; None where it is enough."""
    need, free = recipe.requires.memory, free_bytes(device, machine)
    if need is None or free >= need:
        return None
    place = f"{_words(device)}," if device.gpu is not None else _words(device)
    return f"{place} has {format_bytes(free)} free, {format_bytes(need)} are required"


def too_small(
    recipe: Recipe, why: str, holds: str, memory: tuple[MemoryItem, ...], limit: int, name: str
) -> PlanError:
    """The error of a plan that would fit on less than the recipe requires; `holds` is what it would hold."""
    change = Change(ANYWAY, "less room than the recipe is meant to have", holds)
    return PlanError(
        "the machine has less memory free than the recipe requires",
        where=_where(recipe),
        why=f"{why}; with less room it would fit",
        fixes=[change.flags],
        memory=memory,
        memory_limit=limit,
        changes=[change],
        device_name=name,
    )


def free_bytes(device: Device, machine: Machine) -> int:
    """Bytes that are free on the device that serves."""
    return device.gpu.free_bytes if device.gpu is not None else machine.memory_available


def _where(recipe: Recipe) -> str:
    return f"requires.memory: {format_bytes(recipe.requires.memory or 0)}"


def _words(device: Device) -> str:
    return f"GPU {device.gpu.index}, {device.gpu.name}" if device.gpu is not None else "the machine"
