"""`deploykit bench`: what was asked for, measured one after the other, into one report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.bench import report as reports
from deploykit.bench import tables, workload
from deploykit.bench.compare_run import installed, run_perplexity, run_versus
from deploykit.bench.figures import chosen_jobs
from deploykit.bench.peers import KINDS, hello
from deploykit.bench.perplexity import read_text
from deploykit.bench.predictions import PredictionOptions, run_predictions
from deploykit.bench.predictions import check as check_predictions
from deploykit.bench.report import Result
from deploykit.bench.suite import SuiteOptions, run_suite
from deploykit.bench.suite import check as check_suite
from deploykit.bench.workload import Workload
from deploykit.deployment.stage import Report, ignore
from deploykit.errors import ConfigError, DeploykitError

if TYPE_CHECKING:
    from deploykit.deployment.prepare import Prepared


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure. With none of the flags it is load over HTTP."""

    target: str | None
    against_generate: bool = False
    host_overhead: bool = False
    startup: bool = False
    vs: Sequence[str] = ()  # peers
    peer_python: Sequence[str] = ()  # NAME=PATH
    only: Sequence[str] = ()  # groups of figures
    quick: bool = False
    suite: SuiteOptions | None = None
    predictions: PredictionOptions | None = None
    dataset: Path | None = None
    num_prompts: int | None = None
    tokenizer: Path | None = None
    perplexity: str | None = None  # a text file, or `builtin`
    reference: str | None = None
    kv: Sequence[str] = ()
    prompt_len: int | None = None
    output_len: int | None = None
    concurrency: int | None = None
    requests: int | None = None
    runs: int = 5
    model: str | None = None
    sets: Sequence[str] = ()
    profiles: Sequence[str] = ()
    report: Report = ignore  # stages of a start
    output: Path | None = None
    plot: Path | None = None
    out: Path | None = None  # a folder
    as_json: bool = False

    @property
    def prepares(self) -> bool:
        """Whether the weights have to be on the disk before anything is measured."""
        return bool(self.against_generate or self.startup or self.vs or self.perplexity)

    @property
    def shaped(self) -> bool:
        """Whether a workload of one's own was asked for."""
        return any(v is not None for v in (self.prompt_len, self.output_len, self.concurrency, self.requests))


def run_bench(request: Request) -> int:
    """Measure, print, write. What can be refused is refused before anything is measured."""
    _check(request)
    commands = installed(request.vs, request.peer_python)
    for name, argv in commands.items():
        hello(KINDS[name], argv)  # a missing package is told before weights are fetched
    text = read_text(request.perplexity) if request.perplexity else None
    machine = reports.machine_facts()  # with the load before ours
    results: list[Result] = []
    if request.suite is not None:
        for suite in run_suite(request.suite, say, request.report):
            results.append(suite)
            if len(request.kv) > 1:  # each takes minutes, and what is measured stays if the next one fails
                _write(request, reports.make_report(tuple(results), machine))
    if request.predictions is not None:
        results += run_predictions(request.predictions, say, request.report)
    if request.dataset is not None:
        results.append(_dataset(request, request.dataset))
    alone = request.suite or request.dataset or request.predictions
    if not (request.prepares or request.host_overhead or alone):
        results.append(_http(request))
    if request.host_overhead:
        results += _host_overhead()
    if request.prepares:
        target, prepared = _prepare(request)
        plan = prepared.plan
        if request.against_generate:
            from deploykit.bench.against_generate import compare

            results += compare(plan, _shapes(request), request.runs, say)
        if request.startup:
            from deploykit.bench import startup

            results.append(startup.measure(target, request.sets, request.profiles, plan, request.runs, say))
        if commands:
            results.append(
                run_versus(
                    prepared,
                    target,
                    request.sets,
                    request.profiles,
                    commands,
                    only=request.only,
                    rounds=request.runs,
                    quick=request.quick,
                    stages=request.report,
                    say=say,
                )
            )
        if text is not None:
            results.append(
                run_perplexity(
                    prepared,
                    target,
                    request.sets,
                    request.profiles,
                    text,
                    reference=request.reference,
                    kv=request.kv,
                    stages=request.report,
                    say=say,
                )
            )
    report = reports.make_report(tuple(results), machine)
    if request.as_json:
        sys.stdout.write(reports.encode(report).decode())
    else:
        tables.show(report)
    _write(request, report)
    return 0


def _check(request: Request) -> None:
    if request.runs < 1:
        raise ConfigError("--runs must be at least 1")
    if request.output is not None and not request.output.parent.is_dir():
        raise ConfigError(f"there is no folder {request.output.parent} to write {request.output.name} into")
    if request.plot is not None:
        from deploykit.bench import plot

        if not request.against_generate:
            raise ConfigError("--plot draws a comparison", fix="add --against generate")
        if not request.plot.parent.is_dir():
            raise ConfigError(f"there is no folder {request.plot.parent} to write {request.plot.name} into")
        plot.check(request.plot)
    if request.suite is not None:
        check_suite(request.suite)
    else:
        chosen_jobs(request.only)
    if request.predictions is not None:
        check_predictions(request.predictions)
    _check_alone(request)
    if not request.vs:
        for option, given in (("--only", request.only and not request.suite), ("--quick", request.quick)):
            if given:
                raise ConfigError(f"{option} goes with --vs")
        if request.peer_python:
            raise ConfigError("--peer-python goes with --vs")
    shaped = request.suite or request.predictions
    if request.perplexity is None and (request.reference or (request.kv and not shaped)):
        raise ConfigError("--reference and --kv go with --perplexity")
    if request.out is not None and request.out.exists() and not request.out.is_dir():
        raise ConfigError(f"--out {request.out}: not a folder")
    if request.target is not None and "://" in request.target:
        if request.prepares or request.suite or request.predictions:
            raise ConfigError("a URL can only be measured over HTTP", fix="name a recipe or a model instead")
        if request.sets or request.profiles:
            option = "--set" if request.sets else "--profile"
            raise ConfigError(f"{option} changes a recipe, and a URL has none")


def _check_alone(request: Request) -> None:
    """The suite, the dataset and predictions are each measured by themselves, with options of their own."""
    others = request.prepares or request.host_overhead
    alone = {"--suite": request.suite, "--dataset": request.dataset, "--predictions": request.predictions}
    several = sum(given is not None for given in alone.values()) > 1
    for option, given in alone.items():
        if given is not None and (others or several):
            raise ConfigError(
                f"{option} is measured by itself", fix="drop the others, or run them one after the other"
            )
    if request.suite is not None and request.shaped:
        raise ConfigError(
            "the suite's workloads are fixed", fix="drop --prompt-len and its like; --only picks some"
        )
    if request.dataset is None:
        if request.num_prompts is not None or request.tokenizer is not None:
            raise ConfigError("--num-prompts and --tokenizer go with --dataset")
    elif request.prompt_len or request.output_len or request.requests:
        raise ConfigError(
            "the dataset has the lengths", fix="--num-prompts says how many, -c how many at once"
        )


def _write(request: Request, report: reports.Report) -> None:
    if request.output is not None:
        reports.write_report(report, request.output)
        say(f"wrote {request.output}")
    if request.out is not None:
        reports.write_report(report, request.out / "bench.json")
        tables.write(report, request.out / "bench.txt")
        say(f"wrote {request.out}/bench.json and bench.txt")
    if request.plot is not None:
        from deploykit.bench.plot import write_plot

        write_plot(report, request.plot)
        say(f"wrote {request.plot}")


def _http(request: Request) -> Result:
    from deploykit.bench import http_load
    from deploykit.chat.run import endpoint

    concurrency = request.concurrency or 16
    shape = workload.check(
        Workload(
            name="http",
            prompt_len=request.prompt_len or 128,
            output_len=request.output_len or 128,
            concurrency=concurrency,
            requests=request.requests or 4 * concurrency,
        )
    )
    with endpoint(
        request.target,
        say=say,
        report=request.report,
        recipe_sets=request.sets,
        profiles=request.profiles,
    ) as client:
        models = client.models()
        if not models:
            raise DeploykitError("the server lists no model", where=client.base)
        return http_load.measure(client.base, client.api_key, request.model or models[0], shape, say)


def _dataset(request: Request, path: Path) -> Result:
    from deploykit.bench.dataset_load import run_dataset

    return run_dataset(
        path,
        request.target,
        num_prompts=request.num_prompts,
        concurrency=request.concurrency,
        tokenizer=request.tokenizer,
        model=request.model,
        sets=request.sets,
        profiles=request.profiles,
        stages=request.report,
        say=say,
    )


def _host_overhead() -> list[Result]:
    from deploykit.bench import host_overhead
    from deploykit.engine.fake import FakeRunner

    say("host time between two steps")
    return [host_overhead.measure(FakeRunner(overlap_depth=depth)) for depth in (0, 1)]


def _prepare(request: Request) -> tuple[str, Prepared]:
    """(what `up` is to be given, the plan and more), with the weights in the cache."""
    from deploykit.chat.target import recipe_target
    from deploykit.deployment.prepare import prepare

    target = recipe_target(request.target)
    say(f"preparing {target}")
    return target, prepare(target, sets=request.sets, profiles=request.profiles, report=request.report)


def _shapes(request: Request) -> list[Workload]:
    if not request.shaped:
        return [workload.SINGLE, workload.BATCH_16]
    count = request.concurrency or request.requests or 1
    if request.requests not in (None, count):
        raise ConfigError("against generate all requests run at once", fix="drop --requests")
    shape = Workload(
        name=f"{count} at once",
        prompt_len=request.prompt_len or 128,
        output_len=request.output_len or 128,
        concurrency=count,
        requests=count,
    )
    return [workload.check(shape)]


def say(text: str) -> None:
    """Progress goes to stderr: stdout has the results alone."""
    print(text, file=sys.stderr, flush=True)
