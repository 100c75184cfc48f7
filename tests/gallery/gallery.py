"""Every shipped recipe with every profile of it, what it says of its model, and machines to plan it for."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

from deploykit import shipped
from deploykit.checkpoint.described import read_described
from deploykit.checkpoint.facts import Facts
from deploykit.hardware import catalog
from deploykit.hardware.machine import Machine
from deploykit.plan import Plan, make_plan
from deploykit.recipe import LoadedRecipe, load_recipe

GIB = 1 << 30

Case = tuple[str, str]  # a recipe's name, and a profile of it or ""


@cache
def load(name: str, profile: str = "") -> LoadedRecipe:
    return load_recipe(shipped.path(name), profiles=[profile] if profile else ())


def cases() -> list[Case]:
    return [(name, profile) for name in shipped.names() for profile in ("", *load(name).all_profiles)]


def case_id(case: Case) -> str:
    return "+".join(filter(None, case))


@cache
def _described(path: str, format: str) -> Facts:
    return read_described(Path(path), format)


def facts_of(loaded: LoadedRecipe) -> Facts:
    model = loaded.recipe.model
    assert model.facts is not None, f"{loaded.name} describes no checkpoint"
    return _described(model.facts, model.format)


@cache
def machines() -> tuple[tuple[str, Machine], ...]:
    """Known machines with a GPU that engines run on, smallest first; then servers without one, up to 2 TiB."""
    with_gpu = [
        e for e in catalog.entries() if e.machine.gpus and e.machine.gpus[0].compute_capability >= (7, 5)
    ]
    with_gpu.sort(key=lambda e: e.machine.gpus[0].total_bytes)
    server = next(e for e in catalog.entries() if e.name == "cpu-server").machine
    plain = [
        (
            f"server-{size}",
            msgspec.structs.replace(server, memory_total=size * GIB, memory_available=size * GIB),
        )
        for size in (32, 64, 128, 256, 512, 1024, 2048)
    ]
    return (*((e.name, e.machine) for e in with_gpu), *plain)


def smallest_machine(loaded: LoadedRecipe) -> tuple[str, Machine]:
    """The smallest known machine that has what the recipe requires."""
    from deploykit.plan import PlanError
    from deploykit.plan.stated import check_machine

    for name, machine in machines():
        if loaded.recipe.engine.device == "cpu" and machine.gpus:
            continue
        try:
            check_machine(loaded.recipe, machine)
        except PlanError:
            continue
        return name, machine
    raise AssertionError(f"{loaded.name} requires more than any known machine has: {loaded.recipe.requires}")


@cache
def plan(name: str, profile: str = "") -> Plan:
    """On the smallest machine that it asks for."""
    loaded = load(name, profile)
    _, machine = smallest_machine(loaded)
    return make_plan(loaded.recipe, facts_of(loaded), machine, name=loaded.name)
