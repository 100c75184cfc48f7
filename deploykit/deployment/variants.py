"""The profile of a recipe that fits a machine where the recipe without it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from deploykit.deployment.facts import find_facts
from deploykit.errors import DeploykitError
from deploykit.fsutil import cache_dir
from deploykit.plan.errors import PlanError
from deploykit.recipe import LoadedRecipe, load_recipe

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.plan.outline import Inputs
    from deploykit.plan.types import Change

InputsOf = Callable[[LoadedRecipe, "Facts"], "Inputs"]


@contextlib.contextmanager
def naming_variants(loaded: LoadedRecipe, inputs_of: InputsOf) -> Iterator[None]:
    """A PlanError about memory that leaves the context names the first profile that would fit, if there is one."""
    try:
        yield
    except PlanError as error:
        short = error.memory and error.outlook is None
        if short or (error.where or "").startswith("requires.memory"):
            change = _variant(loaded, inputs_of)
            if change is not None:
                error.add_variant(change)
        raise


def _variant(loaded: LoadedRecipe, inputs_of: InputsOf) -> Change | None:
    """The first of the recipe's other profiles with which it fits, told without a connection."""
    from deploykit.plan.changes import holds
    from deploykit.plan.make import plan_of
    from deploykit.plan.outline import outline
    from deploykit.plan.types import Change

    for name in loaded.all_profiles:
        if loaded.path is None or name in loaded.profiles:
            continue
        with contextlib.suppress(DeploykitError):  # whatever is wrong with this one, the next may do
            other = load_recipe(loaded.path, loaded.sets, (*loaded.profiles, name))
            with find_facts(other, cache_dir(), offline=True) as found:
                inputs = inputs_of(other, found.facts)
                plan_of(inputs, other.name)
            return Change(f"--profile {name}", "a variant of the recipe", holds(outline(inputs)))
    return None
