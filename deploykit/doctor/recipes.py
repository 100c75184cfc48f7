"""Recipes against this machine: from what is on the disk, unless a download is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

import deploykit
from deploykit.deployment.native import native_cuda_problem, native_problem
from deploykit.errors import DeploykitError
from deploykit.plan import PlanError, make_plan
from deploykit.plan.text import format_count
from deploykit.plan.types import Plan

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.deployment.stage import Report
    from deploykit.hardware.machine import Machine
    from deploykit.recipe import LoadedRecipe

Fits = Literal["yes", "no", "unknown", "invalid"]


class RecipeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe on this machine. `fits` is unknown while its model is not on the disk."""

    recipe: str  # name, or the file where it can't be read
    path: str | None
    fits: Fits
    engine: str | None = None
    device: str | None = None
    session_len: int | None = None
    sessions: int | None = None  # full ones that the KV memory holds at once
    why: str = ""


@dataclass(frozen=True)
class OnDisk:
    """A model that needs no download."""

    path: Path
    facts: Facts


def find_on_disk(loaded: LoadedRecipe, cache: Path) -> OnDisk | None:
    """The recipe's model and what it is, or None while it would have to be fetched."""
    from deploykit.checkpoint import read_facts
    from deploykit.deployment.prepare import refs_of
    from deploykit.hub import locate

    fetched = locate(refs_of(loaded.recipe.model), cache=cache)
    if fetched is None:
        return None
    return OnDisk(Path(fetched.path), read_facts(fetched.path, loaded.recipe.model.format))


def fetch_to_disk(loaded: LoadedRecipe, cache: Path, report: Report) -> OnDisk:
    """The same, downloading what is missing; progress goes to `report` as the stage "weights"."""
    from deploykit.checkpoint import read_facts
    from deploykit.deployment.prepare import fetch_weights

    fetched = fetch_weights(loaded, cache=cache, report=report)
    return OnDisk(Path(fetched.path), read_facts(fetched.path, loaded.recipe.model.format))


def sessions_of(plan: Plan) -> int:
    """Full sessions that the KV blocks hold at once."""
    return plan.num_blocks // -(-plan.session_len // plan.block_len)


def judge(loaded: LoadedRecipe, machine: Machine, cache: Path) -> RecipeRow:
    """Whether the recipe runs here, and how far."""
    path = str(loaded.path) if loaded.path else None
    try:
        found = find_on_disk(loaded, cache)
        if found is None:
            return RecipeRow(recipe=loaded.name, path=path, fits="unknown", why="weights not fetched")
        plan = make_plan(
            loaded.recipe,
            found.facts,
            machine,
            name=loaded.name,
            native_problem=native_problem(machine),
            native_cuda_problem=native_cuda_problem(machine),
        )
    except PlanError as error:
        why = f"{error.what}: {error.why}" if error.why else error.what
        return RecipeRow(recipe=loaded.name, path=path, fits="no", why=why)
    except Exception as error:
        return RecipeRow(recipe=loaded.name, path=path, fits="invalid", why=_reason(error))
    return RecipeRow(
        recipe=loaded.name,
        path=path,
        fits="yes",
        engine=plan.engine,
        device=plan.device,
        session_len=plan.session_len,
        sessions=sessions_of(plan),
        why=f"{plan.dtype}, {format_count(plan.num_blocks * plan.block_len)} tokens of KV memory",
    )


def shipped_recipes() -> list[Path]:
    """Recipe files of the checkout that the package lies in, and of the current folder."""
    folders = (Path(deploykit.__file__).parent.parent / "recipes", Path.cwd() / "recipes")
    files = {file.resolve(): file for folder in folders for file in sorted(folder.glob("*.y*ml"))}
    return list(files.values())


def judge_file(path: Path, machine: Machine, cache: Path) -> RecipeRow:
    """`judge` for a file that may be no valid recipe."""
    from deploykit.recipe import load_recipe

    try:
        loaded = load_recipe(path)
    except Exception as error:
        return RecipeRow(recipe=path.name, path=str(path), fits="invalid", why=_reason(error))
    return judge(loaded, machine, cache)


def _reason(error: Exception) -> str:
    """One recipe must not take the other rows with it, whatever is wrong with it."""
    return error.what if isinstance(error, DeploykitError) else f"{type(error).__name__}: {error}"
