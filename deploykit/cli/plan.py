"""`deploykit plan`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.cli._options import Json, Profiles, Sets
from deploykit.errors import EXIT_OK, ConfigError, DeploykitError

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.deployment.facts import Found
    from deploykit.hardware.described import Described
    from deploykit.plan import PlanError
    from deploykit.plan.outline import Inputs
    from deploykit.prompt.templates.resolve import Resolved
    from deploykit.recipe import LoadedRecipe


def plan(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            show_default=False,
            help="A recipe, the name of a shipped one, a model folder, a GGUF file, a hub id, or - for stdin.",
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            "--machine",
            metavar="NAME|FILE",
            help="Plan for another machine: h100, 4090x2, laptop, …, or a YAML or JSON file.",
        ),
    ] = None,
    machines: Annotated[bool, typer.Option("--machines", help="List the machines known by name.")] = False,
    set_: Sets = None,
    profiles: Profiles = None,
    fetch: Annotated[
        bool,
        typer.Option("--fetch", help="Download the model first; without it headers alone are read."),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Make no connection: what is on this disk, or is described.")
    ] = False,
    locked: Annotated[
        bool,
        typer.Option("--locked", help="Demand the recipe's lock: that commit, those files, or an error."),
    ] = False,
    json_: Json = False,
) -> int:
    """Show which engine serves TARGET, on this machine or another, what it takes in bytes, and why.

    Of a model that isn't on the disk the headers of its files are read from its hub, and nothing else. Exit
    code 0: it fits. 3: it doesn't fit, or can't be honoured on that machine. 2: the recipe or the machine is
    wrong, or no chat template fits the model. 1: nothing is known of the model.
    """
    if machines:
        return _list(json_)
    if target is None:
        raise ConfigError(
            "there is nothing to plan",
            fix="name a recipe, a model folder, a GGUF file or a hub id: deploykit plan smollm2-135m",
        )
    if fetch and offline:
        raise ConfigError("--fetch and --offline exclude each other", fix="leave one out")
    other = _described(machine)
    with contextlib.ExitStack() as stack:
        loaded = _open(target, set_ or (), profiles or (), locked)
        found = _find(loaded, fetch, offline, stack)
        return _show(loaded, found, other, json_)


def _show(loaded: LoadedRecipe, found: Found, other: Described | None, json_: bool) -> int:
    from deploykit.cli import _plan_output as show
    from deploykit.cli._output import fault_data
    from deploykit.deployment.variants import naming_variants
    from deploykit.plan import PlanError
    from deploykit.plan.fitting import plan_fitting
    from deploykit.plan.make import more_of, plan_of

    inputs = _inputs(loaded, found.facts, other)
    head = {"machine": show.machine_data(other, inputs.machine), "model": show.model_data(found)}
    try:
        with naming_variants(loaded, lambda variant, facts: _inputs(variant, facts, other)):
            if loaded.path is None:  # nobody wrote it: what `init` would write
                inputs, made = plan_fitting(inputs, loaded.name)
            else:
                made = plan_of(inputs, loaded.name)
    except PlanError as error:
        _add_machine(error, inputs)
        if not json_:
            show.print_refusal(loaded.name, error, other, found)
            raise
        show.print_json({"fits": False, **head, "plan": None, "error": show.refusal_data(error)})
        return error.exit_code
    more = more_of(inputs)
    template, wrong = _template(loaded, found)
    if json_:
        fault = None if wrong is None else fault_data(wrong)
        data = {"plan": made, "sums": show.sums_data(made), "template": show.template_data(template)}
        show.print_json({"fits": True, **head, **data, "more": more, "error": fault})
        return EXIT_OK if wrong is None else wrong.exit_code
    show.print_plan(made, found, template, other, more)
    if wrong is not None:
        raise wrong
    return EXIT_OK


def _list(json_: bool) -> int:
    """The machines known by name, and with `--json` this one beside them."""
    from deploykit.cli import _plan_output as show

    if not json_:
        show.print_machines()
        return EXIT_OK
    from deploykit.fsutil import cache_dir
    from deploykit.hardware import catalog, probe

    named = {e.name: {"about": e.about, "assumed": e.assumed, "facts": e.machine} for e in catalog.entries()}
    show.print_json({"this": probe(disk=cache_dir()), "machines": named})
    return EXIT_OK


def _described(machine: str | None) -> Described | None:
    if machine is None:
        return None
    from deploykit.cli._plan_machine import described

    return described(machine)


def _open(
    target: str, sets: list[str] | tuple[()], profiles: list[str] | tuple[()], locked: bool
) -> LoadedRecipe:
    from deploykit.deployment.target import open_target, refuse_shipped

    if locked:
        refuse_shipped(target)
    loaded = open_target(target, sets=sets, profiles=profiles)
    if not locked:
        return loaded
    from deploykit.recipe.lock import with_lock

    return with_lock(loaded)


def _find(loaded: LoadedRecipe, fetch: bool, offline: bool, stack: contextlib.ExitStack) -> Found:
    """What the recipe's model is, for as long as `stack` is open."""
    from deploykit.cli._output import stage_display
    from deploykit.deployment.facts import fetch_to_disk, find_facts
    from deploykit.fsutil import cache_dir

    with contextlib.closing(stage_display()) as display:
        if fetch:
            return fetch_to_disk(loaded, cache_dir(), display.report)
        return stack.enter_context(find_facts(loaded, cache_dir(), offline=offline, report=display.report))


def _inputs(loaded: LoadedRecipe, facts: Facts, other: Described | None) -> Inputs:
    from deploykit.cli._plan_machine import native_problems
    from deploykit.deployment.prepare import check_test_switches
    from deploykit.fsutil import cache_dir
    from deploykit.hardware import probe
    from deploykit.plan.outline import Inputs

    here = probe(disk=cache_dir()) if other is None else other.machine
    return Inputs(loaded.recipe, facts, here, native_problems(other, here), check_test_switches())


def _add_machine(error: PlanError, inputs: Inputs) -> None:
    """Where it is memory that is short: the smallest known GPU that it does fit on, after the other changes."""
    if not error.memory or error.outlook is not None or inputs.recipe.engine.device == "cpu":
        return
    from deploykit.hardware import catalog
    from deploykit.plan.changes import first_machine

    larger = [(entry.name, entry.machine) for entry in catalog.entries() if entry.machine.gpus]
    larger.sort(key=lambda item: item[1].gpus[0].total_bytes)
    change = first_machine(inputs, larger)
    if change is not None:
        error.add(change)


def _template(loaded: LoadedRecipe, found: Found) -> tuple[Resolved | None, DeploykitError | None]:
    """The chat template, or why there is none: the plan is shown in both cases."""
    from deploykit.deployment.facts import template_of
    from deploykit.fsutil import cache_dir

    try:
        return template_of(loaded, found, cache_dir()), None
    except DeploykitError as error:
        return None, error
