"""`deploykit bench`."""

from __future__ import annotations

import contextlib
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from deploykit.cli._options import Profiles, Sets
from deploykit.cli._output import stage_display
from deploykit.errors import ConfigError


class Against(Enum):
    """Peers that are built in."""

    generate = "generate"


class Reference(Enum):
    """What a perplexity is compared with."""

    f32 = "f32"


class SuiteName(Enum):
    """Suites of fixed workloads."""

    gpu = "gpu"


class LoadFormat(Enum):
    """Where the weights that are measured come from."""

    auto = "auto"
    dummy = "dummy"


class Weights(Enum):
    """Random weights that can be made."""

    bf16 = "bf16"
    awq = "awq"


class Device(Enum):
    """Where a suite runs."""

    cuda = "cuda"
    cpu = "cpu"


class KVType(Enum):
    """Values of engine.cache.quant_policy."""

    none = "none"
    int8 = "int8"
    k8v4 = "k8v4"
    int4 = "int4"
    fp8 = "fp8"


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
    suite: Annotated[
        SuiteName | None,
        typer.Option(help="Five fixed workloads through the engine's socket, beside what the card can do."),
    ] = None,
    predictions: Annotated[
        bool,
        typer.Option(
            "--predictions", help="The plan's bytes and KV blocks against what each engine then holds."
        ),
    ] = False,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="SHAPE",
            help="With --suite, --predictions: random weights of this shape: llama-3-8b (the suite's own), "
            "qwen3-30b-a3b, mixtral-8x7b, qwen3-30b-a3b-6-layers, tiny or tiny-moe.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Weights | None,
        typer.Option(help="With random weights; bf16 where nothing is said.", show_default=False),
    ] = None,
    load_format: Annotated[
        LoadFormat | None,
        typer.Option(
            help="With --suite: `dummy` measures random weights in the target's shape, which need not be downloaded. "
            "Without a target that is so anyway.",
            show_default=False,
        ),
    ] = None,
    repeat: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --suite: runs that a figure is the median of. Default: 3, and 1 for sharegpt_c256.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(
            help="With --suite (cuda unless said otherwise) and --predictions (cpu).", show_default=False
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Send conversations in ShareGPT's format over HTTP; -c at once (default 256).",
            show_default=False,
        ),
    ] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --dataset: how many conversations. Default: 1000.", show_default=False
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="With --dataset and a URL: tokenizer.json, a model folder or a .gguf file.",
            show_default=False,
        ),
    ] = None,
    vs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            help="Measure the engine beside another one, in turns: llamacpp, openvino; repeatable.",
            show_default=False,
        ),
    ] = None,
    peer_python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER=PATH",
            help="The Python that has a peer's package; repeatable. Default: DEPLOYKIT_BENCH_<PEER>_PYTHON, "
            "else this one.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIGURE",
            help="With --vs: decode, prefill, batch, http, memory or start; with --suite: a workload; repeatable.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="With --vs: 2 rounds instead of --runs.")] = False,
    perplexity: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Perplexity over a text file, or over `builtin`.", show_default=False
        ),
    ] = None,
    reference: Annotated[
        Reference | None,
        typer.Option(help="With --perplexity: beside the same weights in float32.", show_default=False),
    ] = None,
    kv: Annotated[
        list[KVType] | None,
        typer.Option(
            help="With --perplexity, --suite and --predictions: results for this KV type; repeatable.",
            show_default=False,
        ),
    ] = None,
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
    set_: Sets = None,
    profiles: Profiles = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE.json", help="Write figures, raw data and machine facts."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the comparison: .png, .svg or .pdf.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="Write bench.json (raw data) and bench.txt (the tables)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the raw data instead of tables.")] = False,
) -> int:
    """Measure. With none of --suite, --predictions, --dataset, --vs, --perplexity, --against, --host-overhead and
    --startup: HTTP load."""
    from deploykit.bench.predictions import PredictionOptions
    from deploykit.bench.run import Request, run_bench
    from deploykit.bench.suite import SuiteOptions
    from deploykit.chat.target import recipe_target

    if against is None and not (host_overhead or startup or vs or perplexity) and runs != 5:
        raise ConfigError("--runs goes with --vs, --against and --startup", fix="over HTTP, use --requests")
    options = None
    if suite is not None:
        if load_format is LoadFormat.auto and target is None:
            raise ConfigError(
                "--load-format auto loads a model's own weights",
                why="no model was named",
                fix="name a recipe, a model folder or a hub id",
            )
        options = SuiteOptions(
            target=recipe_target(target) if target is not None else None,
            dummy=load_format is LoadFormat.dummy,
            shape=shape,
            weights=weights.value if weights is not None else None,
            kv=[kind.value for kind in kv or ()],
            only=only or (),
            repeat=repeat,
            device=(device or Device.cuda).value,
            sets=set_ or (),
            profiles=profiles or (),
        )
    elif repeat or load_format or ((shape or weights or device) and not predictions):
        raise ConfigError(
            "--load-format, --repeat, --shape, --weights and --device go with --suite, the last three with "
            "--predictions too"
        )
    predicted = None
    if predictions:
        named = recipe_target(target) if target is not None or shape is None else None
        predicted = PredictionOptions(
            target=named,
            shape=shape,
            weights=weights.value if weights is not None else None,
            device=(device or Device.cpu).value,
            kv=[kind.value for kind in kv or ()],
            sets=set_ or (),
        )
    display = stage_display(sys.stderr)
    with contextlib.closing(display):
        return run_bench(
            Request(
                target=target,
                against_generate=against is Against.generate,
                host_overhead=host_overhead,
                startup=startup,
                suite=options,
                predictions=predicted,
                dataset=dataset,
                num_prompts=num_prompts,
                tokenizer=tokenizer,
                vs=vs or (),
                peer_python=peer_python or (),
                only=only or (),
                quick=quick,
                perplexity=perplexity,
                reference=reference.value if reference is not None else None,
                kv=[kind.value for kind in kv or ()],
                prompt_len=prompt_len,
                output_len=output_len,
                concurrency=concurrency,
                requests=requests,
                runs=runs,
                model=model,
                sets=set_ or (),
                profiles=profiles or (),
                report=display.report,
                output=output,
                plot=plot,
                out=out,
                as_json=as_json,
            )
        )
