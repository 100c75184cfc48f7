"""The recipe that `deploykit init` writes: planned for a use and a machine, with the reason for every value."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.cli._init_text import Value
from deploykit.errors import ConfigError, DeploykitError

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.deployment.facts import Found
    from deploykit.hardware.described import Described
    from deploykit.plan.outline import Inputs
    from deploykit.plan.types import Plan
    from deploykit.prompt.templates.resolve import Resolved
    from deploykit.recipe import LoadedRecipe


class Use(StrEnum):
    chat = "chat"
    many = "many"
    long = "long"


MANY_SESSION = 4096  # tokens: a question and its answer
WRITTEN = ("engine.session_len", "engine.max_batch_size")  # decisions that are written out as values


@dataclass(frozen=True)
class Wish:
    """What was asked for on the command line."""

    model: str
    use: Use = Use.chat
    machine: str | None = None
    sets: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    fetch: bool = False
    offline: bool = False

    @property
    def command(self) -> str:
        """As it would be typed again."""
        parts = ["deploykit init", self.model]
        parts += [f"--profile {name}" for name in self.profiles]
        parts += [f"--use {self.use.value}"] if self.use is not Use.chat else []
        parts += [f"--machine {self.machine}"] if self.machine else []
        return " ".join([*parts, *(f"--set {text}" for text in self.sets)])


@dataclass(frozen=True)
class Made:
    """A recipe that is ready to be written. `loaded.recipe` is what its text has to mean."""

    text: str
    loaded: LoadedRecipe
    values: list[Value]
    file: Path
    files: dict[
        Path, bytes
    ]  # beside it, under the names that they have beside the recipe that it was made from
    warning: str | None  # why there is no chat template


def make(wish: Wish, file: Path, loaded: LoadedRecipe) -> Made:
    """Raises PlanError where it does not fit, and what reading the model's headers raises."""
    with contextlib.ExitStack() as stack:
        found = _found(loaded, wish, stack)
        planned = _plan(loaded, found, wish)
        template = _template(loaded, found)
    return _written(wish, loaded, planned, template, file)


def _found(loaded: LoadedRecipe, wish: Wish, stack: contextlib.ExitStack) -> Found:
    from deploykit.cli._output import stage_display
    from deploykit.deployment.facts import fetch_to_disk, find_facts
    from deploykit.fsutil import cache_dir

    with contextlib.closing(stage_display()) as display:
        if wish.fetch:
            return fetch_to_disk(loaded, cache_dir(), display.report)
        looked = find_facts(loaded, cache_dir(), offline=wish.offline, report=display.report)
        return stack.enter_context(looked)


# ---------------------------------------------------------------- planning


@dataclass(frozen=True)
class Planned:
    inputs: Inputs
    plan: Plan
    values: list[Value]


def _plan(loaded: LoadedRecipe, found: Found, wish: Wish) -> Planned:
    """The plan for this use, after the cheapest change where it doesn't fit as it is."""
    from deploykit.deployment.variants import naming_variants
    from deploykit.plan.fitting import OTHERWISE, fitting, is_stated
    from deploykit.plan.make import plan_of
    from deploykit.plan.stated import refuse_unsupported

    machine = _described(wish.machine)
    inputs = _inputs(loaded, found.facts, machine)
    refuse_unsupported(inputs.recipe, inputs.facts, inputs.machine)
    values: list[Value] = []
    if wish.use is not Use.chat and not is_stated(inputs.recipe, "engine.session_len"):
        trained = found.facts.max_position_embeddings
        length = trained if wish.use is Use.long else min(MANY_SESSION, trained or MANY_SESSION)
        if length:
            why = (
                "as long as the model was trained for"
                if length == trained
                else "short, so that many run at once"
            )
            values.append(Value("engine.session_len", length, why))
            inputs = inputs.changed("engine.session_len", length)

    def variant(other: LoadedRecipe, facts: Facts) -> Inputs:
        return fitting(_inputs(other, facts, machine))[0]

    with naming_variants(loaded, variant):
        inputs, edits = fitting(inputs, free=tuple(value.key for value in values))
        plan = plan_of(inputs, loaded.name)
    changed = {edit.key for edit in edits}
    values = [value for value in values if value.key not in changed]
    values += [Value(e.key, e.value, f"{e.cost}; {OTHERWISE}") for e in edits]
    for decision in plan.decisions:
        if decision.key in WRITTEN:
            values.append(Value(decision.key, int(decision.value), decision.reason))
            inputs = inputs.changed(decision.key, int(decision.value))
    values.sort(key=lambda value: value.key not in WRITTEN)
    return Planned(inputs, plan, values)


def _inputs(loaded: LoadedRecipe, facts: Facts, other: Described | None) -> Inputs:
    from deploykit.cli._plan_machine import native_problems
    from deploykit.deployment.switches import check_test_switches
    from deploykit.fsutil import cache_dir
    from deploykit.hardware import probe
    from deploykit.plan.outline import Inputs

    here = other.machine if other is not None else probe(disk=cache_dir())
    return Inputs(loaded.recipe, facts, here, native_problems(other, here), check_test_switches())


def _described(machine: str | None) -> Described | None:
    from deploykit.cli._plan_machine import described

    return described(machine) if machine is not None else None


def _template(loaded: LoadedRecipe, found: Found) -> Resolved | str:
    from deploykit.deployment.facts import template_of
    from deploykit.fsutil import cache_dir

    try:
        return template_of(loaded, found, cache_dir())
    except DeploykitError as error:
        return ": ".join(part for part in (error.what, error.why or error.fix) if part)


# ---------------------------------------------------------------- writing


def _written(
    wish: Wish, loaded: LoadedRecipe, planned: Planned, template: Resolved | str, file: Path
) -> Made:
    from deploykit.cli import _init_text as text
    from deploykit.cli._recipe_files import beside
    from deploykit.deployment.target import recipe_file, recipe_from_target
    from deploykit.shipped.edit import put, with_modeline
    from deploykit.shipped.flatten import flatten

    asked = _asked(loaded, wish.sets)
    wrong = template if isinstance(template, str) else None
    source = recipe_file(wish.model)
    recipe = replace(loaded, recipe=planned.inputs.recipe)
    values = sorted(
        [*asked, *planned.values], key=lambda value: value.key.count(".")
    )  # sections after values
    head = _head(wish, planned.plan)
    if source is None:
        data = recipe_from_target(wish.model).data
        own = [v for v in values if v.key.startswith("engine.")]
        body = text.for_model(data, loaded.name, planned.plan, own, template, head, file)
        for value in values:
            if value not in own:
                body = put(body, tuple(value.key.split(".")), value.value, value.comment)
        return Made(with_modeline(body, file.parent), recipe, values, file, {}, wrong)
    flat = flatten(source)
    if loaded.profiles:
        body = _merged(loaded, source)
        flat = replace(flat, files=tuple(name for name in flat.files if str(name) in body))
    else:
        body = flat.text
    body = text.for_recipe(with_modeline(body, file.parent), values, head)
    return Made(body, recipe, values, file, beside(flat, source, file), wrong)


def _head(wish: Wish, plan: Plan) -> list[str]:
    from deploykit import __version__
    from deploykit.deployment.prepare import describe

    where = "this machine" if wish.machine is None else "a machine"
    return [
        f"{plan.name}, fitted to {where}: {plan.device_name}.",
        f"{describe(plan)}.",
        f"Written by `{wish.command}`, version {__version__}.",
    ]


def _merged(loaded: LoadedRecipe, source: Path) -> str:
    """The recipe with its profiles as one text; what they change is no comment any more. Paths are relative again."""
    from deploykit.cli._recipe_files import plain
    from deploykit.recipe.dump import to_yaml

    return to_yaml(loaded).replace(f"{plain(source.parent)}{os.sep}", "")


def _asked(loaded: LoadedRecipe, sets: tuple[str, ...]) -> list[Value]:
    """What was given as --set, as values to be written."""
    found = {}
    for text in sets:
        key = text.partition("=")[0]
        value = loaded.merged.data
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ConfigError(
                    f"--set {key} can't be written into a recipe", fix="write it into the file afterwards"
                )
            value = value[part]
        found[key] = Value(key, value, "as asked for")
    return list(found.values())
