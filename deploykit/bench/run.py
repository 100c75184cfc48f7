"""`deploykit bench`: what was asked for, measured one after the other, into one report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.bench import report as reports
from deploykit.bench import tables, workload
from deploykit.bench.report import Result
from deploykit.bench.workload import Workload
from deploykit.deployment.stage import Report, ignore
from deploykit.errors import ConfigError, DeploykitError

if TYPE_CHECKING:
    from deploykit.plan.types import Plan


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure. With neither of the three flags it is load over HTTP."""

    target: str | None
    against_generate: bool = False
    host_overhead: bool = False
    startup: bool = False
    prompt_len: int | None = None
    output_len: int | None = None
    concurrency: int | None = None
    requests: int | None = None
    runs: int = 5
    model: str | None = None
    sets: Sequence[str] = ()
    report: Report = ignore  # stages of a start
    output: Path | None = None
    plot: Path | None = None

    @property
    def shaped(self) -> bool:
        """Whether a workload of one's own was asked for."""
        return any(v is not None for v in (self.prompt_len, self.output_len, self.concurrency, self.requests))


def run_bench(request: Request) -> int:
    """Measure, print, write. What can be refused is refused before anything is measured."""
    _check(request)
    machine = reports.machine_facts()  # with the load before ours
    results: list[Result] = []
    over_http = not (request.against_generate or request.host_overhead or request.startup)
    if over_http:
        results.append(_http(request))
    if request.host_overhead:
        results += _host_overhead()
    if request.against_generate or request.startup:
        target, plan = _prepare(request)
        if request.against_generate:
            from deploykit.bench.against_generate import compare

            results += compare(plan, _shapes(request), request.runs, say)
        if request.startup:
            from deploykit.bench import startup

            results.append(startup.measure(target, request.sets, plan, request.runs, say))
    report = reports.make_report(tuple(results), machine)
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
    if request.target is not None and "://" in request.target:
        if request.against_generate or request.startup:
            raise ConfigError("a URL can only be measured over HTTP", fix="name a recipe or a model instead")
        if request.sets:
            raise ConfigError("--set changes a recipe, and a URL has none")


def _write(request: Request, report: reports.Report) -> None:
    if request.output is not None:
        reports.write_report(report, request.output)
        say(f"wrote {request.output}")
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
    with endpoint(request.target, say=say, report=request.report, recipe_sets=request.sets) as client:
        models = client.models()
        if not models:
            raise DeploykitError("the server lists no model", where=client.base)
        return http_load.measure(client.base, client.api_key, request.model or models[0], shape, say)


def _host_overhead() -> list[Result]:
    from deploykit.bench import host_overhead
    from deploykit.engine.fake import FakeRunner

    say("host time between two steps")
    return [host_overhead.measure(FakeRunner(overlap_depth=depth)) for depth in (0, 1)]


def _prepare(request: Request) -> tuple[str, Plan]:
    """(what `up` is to be given, the plan), with the weights in the cache."""
    from deploykit.chat.target import recipe_target
    from deploykit.deployment.prepare import prepare

    target = recipe_target(request.target)
    say(f"preparing {target}")
    return target, prepare(target, sets=request.sets, report=request.report).plan


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
