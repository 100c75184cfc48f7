"""`deploykit bench`."""

from __future__ import annotations

import contextlib
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from deploykit.cli._output import stage_display
from deploykit.errors import ConfigError


class Against(Enum):
    """Peers that are built in."""

    generate = "generate"


def bench(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="A URL, the name of a running deployment, a recipe, a model folder, a GGUF file or a hub id. "
            "Default: the deployment that runs, else the recipe smollm2-135m.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Against | None,
        typer.Option(help="Measure the engine against transformers.generate on the same weights, in turns."),
    ] = None,
    host_overhead: Annotated[
        bool,
        typer.Option("--host-overhead", help="Host time between two steps, on the fake runner with 16 rows."),
    ] = False,
    startup: Annotated[
        bool, typer.Option("--startup", help="Time to ready from a warm cache, and memory beside the plan's.")
    ] = False,
    prompt_len: Annotated[
        int | None, typer.Option(min=1, help="Tokens of each prompt.", show_default=False)
    ] = None,
    output_len: Annotated[
        int | None, typer.Option(min=1, help="Tokens of each answer.", show_default=False)
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", min=1, help="Requests at once.", show_default=False)
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option("--requests", "-n", min=1, help="Requests in all, over HTTP.", show_default=False),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Repetitions; medians are reported.")] = 5,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="Which model, where several are served."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="A key of the recipe; repeatable.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE.json", help="Write figures, raw data and machine facts."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the comparison: .png, .svg or .pdf.")
    ] = None,
) -> int:
    """Measure. Without --against, --host-overhead or --startup: load over HTTP, as a client sees it."""
    from deploykit.bench.run import Request, run_bench

    if against is None and not (host_overhead or startup) and runs != 5:
        raise ConfigError("--runs goes with --against and --startup", fix="over HTTP, use --requests")
    display = stage_display(sys.stderr)
    with contextlib.closing(display):
        return run_bench(
            Request(
                target=target,
                against_generate=against is Against.generate,
                host_overhead=host_overhead,
                startup=startup,
                prompt_len=prompt_len,
                output_len=output_len,
                concurrency=concurrency,
                requests=requests,
                runs=runs,
                model=model,
                sets=set_ or (),
                report=display.report,
                output=output,
                plot=plot,
            )
        )
