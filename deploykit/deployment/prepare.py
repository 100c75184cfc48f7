"""From a target to everything that the processes are started with: recipe, files, facts, plan, spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploykit.checkpoint.facts import Facts
from deploykit.deployment.facts import ahead_of_download, template_of
from deploykit.deployment.native import ensure_native, native_cuda_problem, native_problem, target_of
from deploykit.deployment.serve import make_serve_spec
from deploykit.deployment.sources import fetch_weights as fetch_weights
from deploykit.deployment.sources import refs_of as refs_of
from deploykit.deployment.stage import Report, ignore, stage
from deploykit.deployment.switches import check_test_switches as check_test_switches
from deploykit.deployment.target import load
from deploykit.deployment.templates import choose_template
from deploykit.deployment.variants import naming_variants
from deploykit.fsutil import cache_dir
from deploykit.hardware.machine import Machine
from deploykit.hub import Fetched
from deploykit.plan.types import Plan
from deploykit.recipe import LoadedRecipe
from deploykit.server.spec import ServeSpec


@dataclass(frozen=True)
class Prepared:
    """What a start knows before its processes run."""

    loaded: LoadedRecipe
    fetched: Fetched
    facts: Facts
    machine: Machine
    plan: Plan
    serve: ServeSpec  # engine_socket and port are still to be filled in


def prepare(
    target: str | LoadedRecipe,
    *,
    sets: Sequence[str] = (),
    profiles: Sequence[str] = (),
    report: Report = ignore,
    offline: bool = False,
) -> Prepared:
    """All stages: recipe (unless it is loaded already), weights, plan, and native where the plan picked that engine.

    Where the weights would have to be fetched, a stage "headers" plans from their headers before: what doesn't fit is
    refused there.

    Raises what the rooms raise: RecipeError and ConfigError (exit 2), PlanError (3), DeploykitError (1).
    """
    from deploykit.checkpoint import read_facts
    from deploykit.checkpoint.tokenizer import ensure_tokenizer
    from deploykit.hardware import probe
    from deploykit.plan import make_plan
    from deploykit.plan.choose import NativeProblems
    from deploykit.plan.fitting import changes_in, fitting, with_changes
    from deploykit.plan.outline import Inputs
    from deploykit.plan.stated import check_machine, refuse_unsupported

    loaded = load(target, sets=sets, profiles=profiles, report=report) if isinstance(target, str) else target
    runner = check_test_switches()
    cache = cache_dir()
    machine = probe(disk=cache)
    refuse_unsupported(loaded.recipe)  # before anything is downloaded

    def inputs_of(recipe: LoadedRecipe, facts: Facts) -> Inputs:
        problems = NativeProblems(native_problem(machine), native_cuda_problem(machine))
        return Inputs(recipe.recipe, facts, machine, problems, runner)

    def plan_of(facts: Facts) -> Plan:
        inputs = inputs_of(loaded, facts)
        # A recipe that nobody wrote is what `init` would write.
        inputs, edits = fitting(inputs) if loaded.path is None else (inputs, ())
        with naming_variants(loaded, inputs_of):
            plan = make_plan(
                inputs.recipe,
                facts,
                machine,
                name=loaded.name,
                runner=runner,
                native_problem=inputs.native.cpu,
                native_cuda_problem=inputs.native.cuda,
            )
        return with_changes(plan, edits)

    if runner is None:
        with naming_variants(loaded, inputs_of):
            check_machine(loaded.recipe, machine)

    with ahead_of_download(loaded, cache, offline=offline, report=report) as (found, running):
        if found is not None:  # refused here, a model that doesn't fit costs its headers alone
            running.detail = f"{describe(plan_of(found.facts))}; {found.source}"
            template_of(loaded, found, cache)
    fetched = fetch_weights(loaded, cache=cache, offline=offline, report=report)
    with stage("plan", report) as running:
        facts = read_facts(fetched.path, loaded.recipe.model.format)
        plan = plan_of(facts)
        tokenizer = ensure_tokenizer(facts, cache)
        template = choose_template(loaded, facts, lambda: tokenizer.tokenizer_json)
        serve = make_serve_spec(loaded, facts, tokenizer, template)
        running.detail = "; ".join((describe(plan), *changes_in(plan)))
        if template.origin != "checkpoint":
            named = f"chat template {template.name}".rstrip()
            running.detail = "; ".join((running.detail, f"{named}: {template.reason}", *template.notes))
    if plan.engine == "native":
        ensure_native(target_of(plan, machine), report)
    return Prepared(loaded, fetched, facts, machine, plan, serve)


def describe(plan: Plan) -> str:
    """The plan in a line: engine and why, memory of what there is, how much runs at once."""
    from deploykit.plan.text import format_bytes, format_count

    why = next((c.reason for c in plan.candidates if c.accepted and c.engine == plan.engine), "")
    engine = f"{plan.engine} on {plan.device}, {plan.dtype}" + (f" ({why})" if why else "")
    memory = f"{format_bytes(plan.total_bytes)} of {format_bytes(plan.memory_limit)}"
    room = f"{format_count(plan.num_blocks * plan.block_len)} tokens of KV"
    return f"{engine}; {memory}; {room}, {plan.max_batch_size} requests at once"
