"""`deploykit plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.errors import EXIT_OK, ConfigError, DeploykitError

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hardware.described import Described
    from deploykit.plan import PlanError
    from deploykit.plan.outline import Inputs
    from deploykit.prompt.templates.resolve import Resolved
    from deploykit.recipe import LoadedRecipe


def plan(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET", show_default=False, help="A recipe, a model folder, a GGUF file, or a hub id."
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
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Another value for a key of the recipe; repeatable."),
    ] = None,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch/--offline", help="Download the model first, or use only what is on the disk (default)."
        ),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> int:
    """Show which engine serves TARGET, on this machine or another, what it takes in bytes, and why.

    Exit code 0: it fits. 3: it doesn't fit, or can't be honoured on that machine. 2: the recipe or
    the machine is wrong, or no chat template fits the model. 1: the model is not on the disk.
    """
    from deploykit.cli import _plan_output as show
    from deploykit.plan import PlanError
    from deploykit.plan.make import more_of, plan_of

    if machines:
        return _list(json_)
    if target is None:
        raise ConfigError(
            "there is nothing to plan",
            fix="name a recipe, a model folder, a GGUF file or a hub id: deploykit plan recipes/smollm2-135m.yaml",
        )
    other = _described(machine)
    loaded, facts = _find(target, set_ or (), fetch)
    inputs = _inputs(loaded, facts, other)
    head = {"machine": show.machine_data(other, inputs.machine), "model": show.model_data(facts)}
    try:
        made = plan_of(inputs, loaded.name)
    except PlanError as error:
        _add_machine(error, inputs)
        if not json_:
            show.print_refusal(loaded.name, error, other)
            raise
        show.print_json({"fits": False, **head, "plan": None, "error": show.refusal_data(error)})
        return error.exit_code
    more = more_of(inputs)
    template, wrong = _template(loaded, facts)
    if json_:
        fault = None if wrong is None else show.fault_data(wrong)
        found = {"plan": made, "sums": show.sums_data(made), "template": show.template_data(template)}
        show.print_json({"fits": True, **head, **found, "more": more, "error": fault})
        return EXIT_OK if wrong is None else wrong.exit_code
    show.print_plan(made, facts, template, other, more)
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


def _find(target: str, sets: list[str] | tuple[()], fetch: bool) -> tuple[LoadedRecipe, Facts]:
    from deploykit.cli._output import stage_display
    from deploykit.deployment.target import open_target
    from deploykit.doctor.recipes import fetch_to_disk, find_on_disk
    from deploykit.fsutil import cache_dir

    loaded = open_target(target, sets=sets)
    if fetch:
        display = stage_display()
        try:
            return loaded, fetch_to_disk(loaded, cache_dir(), display.report).facts
        finally:
            display.close()
    found = find_on_disk(loaded, cache_dir())
    if found is None:
        raise DeploykitError(
            f"the model of {loaded.name} is not on this disk",
            where=target,
            why="a plan is made from the checkpoint's own headers, and `plan` downloads nothing by itself",
            fix=f"deploykit plan {target} --fetch",
        )
    return loaded, found.facts


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
    if not error.memory or inputs.recipe.engine.device == "cpu":
        return
    from deploykit.hardware import catalog
    from deploykit.plan.changes import first_machine

    larger = [(entry.name, entry.machine) for entry in catalog.entries() if entry.machine.gpus]
    larger.sort(key=lambda item: item[1].gpus[0].total_bytes)
    change = first_machine(inputs, larger)
    if change is not None:
        error.add(change)


def _template(loaded: LoadedRecipe, facts: Facts) -> tuple[Resolved | None, DeploykitError | None]:
    """The chat template, or why there is none: the plan is shown in both cases."""
    from deploykit.checkpoint.tokenizer import ensure_tokenizer
    from deploykit.deployment.templates import choose_template
    from deploykit.fsutil import cache_dir

    try:
        return choose_template(
            loaded, facts, lambda: ensure_tokenizer(facts, cache_dir()).tokenizer_json
        ), None
    except DeploykitError as error:
        return None, error
