"""From a target to everything that the processes are started with: recipe, files, facts, plan, spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploykit.checkpoint.facts import Facts
from deploykit.deployment.native import ensure_native, native_cuda_problem, native_problem, target_of
from deploykit.deployment.serve import make_serve_spec
from deploykit.deployment.stage import Report, ignore, stage
from deploykit.deployment.switches import check_test_switches as check_test_switches
from deploykit.deployment.target import load
from deploykit.fsutil import cache_dir
from deploykit.hardware.machine import Machine
from deploykit.hub import Fetched, FetchProgress, HfRef, PathRef, PypiRef, Ref, fetch
from deploykit.plan.types import Plan
from deploykit.recipe import LoadedRecipe
from deploykit.recipe.schema import HfSource, ModelSection, PathSource, PypiSource
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
    report: Report = ignore,
    offline: bool = False,
) -> Prepared:
    """All stages: recipe (unless it is loaded already), weights, plan, and native where the plan picked that engine.

    Raises what the rooms raise: RecipeError and ConfigError (exit 2), PlanError (3), DeploykitError (1).
    """
    from deploykit.checkpoint import read_facts
    from deploykit.checkpoint.tokenizer import ensure_tokenizer
    from deploykit.hardware import probe
    from deploykit.plan import make_plan

    loaded = load(target, sets=sets, report=report) if isinstance(target, str) else target
    runner = check_test_switches()
    cache = cache_dir()

    fetched = fetch_weights(loaded, cache=cache, offline=offline, report=report)
    with stage("plan", report) as running:
        facts = read_facts(fetched.path)
        machine = probe(disk=cache)
        plan = make_plan(
            loaded.recipe,
            facts,
            machine,
            name=loaded.name,
            runner=runner,
            native_problem=native_problem(machine),
            native_cuda_problem=native_cuda_problem(machine),
        )
        tokenizer = ensure_tokenizer(facts, cache)
        serve = make_serve_spec(loaded, facts, tokenizer)
        running.detail = describe(plan)
    if plan.engine == "native":
        ensure_native(target_of(plan, machine), report)
    return Prepared(loaded, fetched, facts, machine, plan, serve)


def fetch_weights(
    loaded: LoadedRecipe, *, cache: Path, offline: bool = False, report: Report = ignore
) -> Fetched:
    """The stage "weights": the model's files, from the disk or from the first source that answers."""
    with stage("weights", report) as running:

        def on_progress(progress: FetchProgress) -> None:
            fraction = progress.done / progress.total if progress.total else None
            running.progress(_amount(progress), fraction)

        refs = refs_of(loaded.recipe.model)
        fetched = fetch(refs, cache=cache, offline=offline, report=on_progress)
        running.detail = "; ".join((f"{fetched.path.name} from {fetched.source}", *fetched.failures))
    return fetched


def refs_of(model: ModelSection) -> list[Ref]:
    """Where the model may come from, in order."""
    if model.id is not None:
        return [HfRef(repo=model.id, revision=model.revision)]
    if model.path is not None:
        return [PathRef(path=Path(model.path))]
    refs: list[Ref] = []
    for source in model.sources or ():
        match source:
            case PypiSource():
                refs.append(PypiRef(package=source.pypi, file=source.file, sha256=source.sha256))
            case HfSource():
                refs.append(HfRef(repo=source.hf, revision=source.revision, file=source.file))
            case PathSource():
                refs.append(PathRef(path=Path(source.path)))
    return refs


def describe(plan: Plan) -> str:
    """The plan in a line: engine and why, memory of what there is, how much runs at once."""
    from deploykit.plan.text import format_bytes, format_count

    why = next((c.reason for c in plan.candidates if c.accepted and c.engine == plan.engine), "")
    engine = f"{plan.engine} on {plan.device}, {plan.dtype}" + (f" ({why})" if why else "")
    memory = f"{format_bytes(plan.total_bytes)} of {format_bytes(plan.memory_limit)}"
    room = f"{format_count(plan.num_blocks * plan.block_len)} tokens of KV"
    return f"{engine}; {memory}; {room}, {plan.max_batch_size} requests at once"


def _amount(progress: FetchProgress) -> str:
    from deploykit.plan.text import format_bytes

    done = format_bytes(progress.done)
    return f"{progress.file}: {done} of {format_bytes(progress.total)}" if progress.total else done
