"""`deploykit bench --suite gpu`: five workloads through the engine's socket, each beside what the card could do."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from types import FrameType
from typing import TYPE_CHECKING, Any

from deploykit.bench import card as cards
from deploykit.bench import gpu_workloads
from deploykit.bench.dummy import SHAPES, WEIGHTS, write_dummy_checkpoint
from deploykit.bench.engine_run import EngineRun, Run
from deploykit.bench.gpu_workloads import MAX_ROWS, UNIT, UNITS, GpuWorkload, amount_of
from deploykit.bench.measure import median, spread
from deploykit.bench.roofline import ModelCost, model_cost, roofline, schedule
from deploykit.bench.suite_report import Card, PeerFigure, Suite, SuiteFigure
from deploykit.deployment.stage import Report, ignore
from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.deployment.prepare import Prepared
    from deploykit.hardware.machine import Machine
    from deploykit.plan.types import Plan

DEFAULT_SHAPE = "llama-3-8b"
PEERS_FILE = Path(__file__).with_name("gpu_peers.json")
WARM_UP_TOKENS = 8  # output tokens of each request of a run that isn't counted
# What tells a shape apart from another one, for a comparison with figures of elsewhere.
_SHAPE_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "vocab_size",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """`target` is what `up` understands; None: random weights of `shape`. `dummy`: random ones in its shape."""

    target: str | None = None
    dummy: bool = False
    shape: str | None = None
    weights: str | None = None  # of random weights
    kv: Sequence[str] = ()
    only: Sequence[str] = ()
    repeat: int | None = None
    device: str = "cuda"
    sets: Sequence[str] = ()
    profiles: Sequence[str] = ()


def check(options: SuiteOptions) -> None:
    """Raises ConfigError for what contradicts itself, before anything is written or measured."""
    if options.target is not None and (options.shape or options.weights):
        raise ConfigError(
            "--shape and --weights make random weights",
            why=f"{options.target} brings its own shape"
            if options.dummy
            else f"{options.target} brings its own",
            fix="drop one of them",
        )
    if options.shape is not None and options.shape not in SHAPES:
        raise ConfigError(f"there is no shape {options.shape!r}", fix=f"--shape {' or '.join(SHAPES)}")
    if options.weights is not None and options.weights not in WEIGHTS:
        raise ConfigError(
            f"no random weights of kind {options.weights!r}", fix=f"--weights {' or '.join(WEIGHTS)}"
        )
    gpu_workloads.chosen(options.only)


def run_suite(options: SuiteOptions, say: Callable[[str], None], stages: Report = ignore) -> Iterator[Suite]:
    """One result for each KV type, as it is measured. Raises ConfigError without a GPU, unless the CPU is asked for."""
    from deploykit import hardware
    from deploykit.deployment.prepare import prepare

    check(options)
    workloads = gpu_workloads.chosen(options.only)
    machine = hardware.probe()
    if options.device == "cuda" and not machine.gpus:
        raise ConfigError(
            "the suite needs a CUDA GPU",
            why=machine.gpu_error or "no GPU was found",
            fix="--device cpu --shape tiny tries the suite itself on the CPU",
        )
    with _ended_in_order(), _target(options, say, stages) as (target, model):
        card: Card | None = None
        for kv in dict.fromkeys(options.kv or ("none",)):
            sets = (*_sets(options, workloads, kv), *model)
            prepared = prepare(target, sets=sets, profiles=options.profiles, report=stages)
            _check_plan(prepared, options.device)
            if card is None:
                say("measuring the machine's rates")
                card = _card(prepared.plan, machine)
                say(card_line(card))
            yield _measure(prepared, options, workloads, kv, card, say)


@contextmanager
def _target(
    options: SuiteOptions, say: Callable[[str], None], stages: Report
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is measured, and the keys that put random weights into its place."""
    if options.target is not None and not options.dummy:
        yield options.target, ()
        return
    if options.target is not None:
        with tempfile.TemporaryDirectory(prefix="deploykit-bench-") as folder:
            path = _random_copy(options.target, options, Path(folder), say, stages)
            nothing = ("model.id=null", "model.sources=null", "model.facts=null", "model.format=auto")
            yield options.target, (f"model.path={path}", *nothing)
        return
    shape, weights = options.shape or DEFAULT_SHAPE, options.weights or WEIGHTS[0]
    with tempfile.TemporaryDirectory(prefix="deploykit-bench-") as folder:
        say(f"writing random {weights} weights of {shape} to {folder}")
        start = time.perf_counter()
        path = write_dummy_checkpoint(Path(folder) / f"{shape}-{weights}", SHAPES[shape], weights)
        say(f"written in {time.perf_counter() - start:.1f} s")
        yield str(path), ()


def _random_copy(
    target: str, options: SuiteOptions, folder: Path, say: Callable[[str], None], stages: Report
) -> Path:
    """Random weights in the shape of the target, whose own weights need not be there: its headers are enough."""
    from deploykit.bench.dummy_copy import write_dummy_copy
    from deploykit.deployment.facts import find_facts
    from deploykit.deployment.target import load
    from deploykit.fsutil import cache_dir

    loaded = load(target, sets=options.sets, profiles=options.profiles, report=stages)
    with find_facts(loaded, cache_dir(), report=stages) as found:
        say(f"writing random weights of {loaded.name}'s shape to {folder} ({found.source})")
        start = time.perf_counter()
        path = write_dummy_copy(folder / loaded.name, found.facts)
    say(f"written in {time.perf_counter() - start:.1f} s")
    return path


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C does: 16 GB of weights and an engine process must not stay behind."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _sets(options: SuiteOptions, workloads: dict[str, GpuWorkload], kv: str) -> tuple[str, ...]:
    """Keys of the recipe: those that a person may change, theirs, and those that make the figures comparable."""
    requests = [request for workload in workloads.values() for request in workload]
    longest = max(len(request.prompt) + request.output_len for request in requests)
    most = max(len(workload) for workload in workloads.values())
    return (
        f"engine.device={options.device}",
        f"engine.session_len={longest}",
        f"engine.max_batch_size={MAX_ROWS}",
        "chat.capability=completion",  # token ids in and out: checkpoints without a chat template are welcome
        *options.sets,
        f"server.limits.max_queue={most}",
        "engine.cache.prefix_caching=false",
        *([f"engine.cache.quant_policy={kv}"] if options.kv or kv != "none" else []),
    )


def _check_plan(prepared: Prepared, device: str) -> None:
    plan = prepared.plan
    if plan.device != device:
        raise ConfigError(f"the suite was asked for {device}, and the plan is for {plan.device}")
    if plan.max_batch_size > MAX_ROWS:
        raise ConfigError(
            f"{plan.max_batch_size} rows at once are more than the workloads allow",
            why=f"every figure is of at most {MAX_ROWS} sequences at once",
            fix=f"--set engine.max_batch_size={MAX_ROWS}",
        )
    if plan.vocab_size < gpu_workloads.END_ID:
        raise ConfigError(
            f"the workloads have token ids up to {gpu_workloads.END_ID - 1}",
            why=f"this model's vocabulary has {plan.vocab_size}",
            fix="a model with a larger one, or --shape for random weights",
        )


def _card(plan: Plan, machine: Machine) -> Card:
    if plan.device == "cuda":
        gpu = next(gpu for gpu in machine.gpus if gpu.index in plan.devices)
        return cards.measure_gpu(gpu, machine)
    return cards.measure_cpu(machine, plan.threads)


def _measure(
    prepared: Prepared,
    options: SuiteOptions,
    workloads: dict[str, GpuWorkload],
    kv: str,
    card: Card,
    say: Callable[[str], None],
) -> Suite:
    plan, facts = prepared.plan, prepared.facts
    weights = facts.quant_method or {"bfloat16": "bf16", "float16": "f16"}.get(
        facts.weight_dtype, facts.weight_dtype
    )
    peers, note = peers_of(card, facts, weights, kv)
    cost = model_cost(facts, plan)
    figures = []
    with EngineRun(plan) as engine:
        say(
            f"loading {prepared.loaded.name} into the engine ({plan.engine}, {plan.dtype}, KV {plan.kv_dtype})"
        )
        engine.load()
        load_s = time.perf_counter() - engine.started
        say(f"ready after {load_s:.1f} s")
        for name, workload in workloads.items():
            _run(
                engine,
                [
                    request._replace(output_len=min(WARM_UP_TOKENS, request.output_len))
                    for request in workload
                ],
            )
            runs = []
            for i in range(repeats := gpu_workloads.repeats_of(name, options.repeat)):
                runs.append(_run(engine, workload))
                rate = amount_of(name, workload) / runs[-1].seconds
                say(f"{name}, run {i + 1} of {repeats}: {rate:,.1f} {UNITS.get(name, UNIT)}")
            figures.append(figure_of(name, workload, runs, cost, plan, card, peers))
    return Suite(
        suite="gpu",
        model=prepared.loaded.name,
        weights=weights if plan.lm_head_dtype == "auto" else f"{weights}, {plan.lm_head_dtype} head",
        random_weights=options.dummy or options.target is None,
        engine=plan.engine,
        device=plan.device,
        dtype=plan.dtype,
        kv_dtype=plan.kv_dtype,
        max_batch_size=plan.max_batch_size,
        max_prefill_tokens=plan.max_prefill_tokens,
        session_len=plan.session_len,
        kv_tokens=plan.num_blocks * plan.block_len,
        load_s=load_s,
        card=card,
        peers_note=note,
        figures=tuple(figures),
    )


def _run(engine: EngineRun, workload: GpuWorkload) -> Run:
    return engine.run_each(
        [request.prompt for request in workload], [request.output_len for request in workload]
    )


def figure_of(
    name: str,
    workload: GpuWorkload,
    runs: Sequence[Run],
    cost: ModelCost | None,
    plan: Plan,
    card: Card,
    peers: dict[str, dict[str, float]],
) -> SuiteFigure:
    """The arithmetic of one row. `peers` is name -> figures by workload."""
    seconds = tuple(run.seconds for run in runs)
    amount = amount_of(name, workload)
    values = tuple(amount / s for s in seconds)
    middle = median(values)
    taken = amount / middle
    prompt_tokens = sum(len(request.prompt) for request in workload)
    output_tokens = sum(request.output_len for request in workload)
    best = None
    if cost is not None:
        best = roofline(
            cost,
            schedule(
                [(len(r.prompt), r.output_len) for r in workload],
                plan.max_batch_size,
                plan.max_prefill_tokens,
            ),
            card.read_gbytes_per_s * 1e9 if card.read_gbytes_per_s else None,
            card.matrix_tflops * 1e12 if card.matrix_tflops else None,
        )
    limit = best.seconds if best else None
    return SuiteFigure(
        name=name,
        requests=len(workload),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        unit=UNITS.get(name, UNIT),
        seconds=seconds,
        values=values,
        median=middle,
        spread=spread(values),
        input_tokens_per_s=prompt_tokens / taken,
        output_tokens_per_s=output_tokens / taken,
        requests_per_s=len(workload) / taken,
        first_token_s=next(run.ttft for run in runs if run.seconds == median_low(seconds)),
        steps=best.steps if best else None,
        gbytes_per_s=best.nbytes / taken / 1e9 if best else None,
        tflops=best.flops / taken / 1e12 if best else None,
        roofline=amount / limit if limit else None,
        roofline_share=limit / taken if limit else None,
        peers=tuple(
            PeerFigure(name=peer, value=figures[name], ratio=middle / figures[name])
            for peer, figures in peers.items()
            if name in figures
        ),
    )


def peers_of(card: Card, facts: Facts, weights: str, kv: str) -> tuple[dict[str, dict[str, float]], str]:
    """(figures by peer and workload, where they come from); none where they are of another card or another model."""
    data: dict[str, Any] = json.loads(PEERS_FILE.read_text())
    shape = SHAPES[data["shape"]]
    if card.name != data["card"]:
        return {}, f"of another card ({data['card']})"
    if any(facts.config.get(key) != shape[key] for key in _SHAPE_KEYS):
        return {}, f"of another model (the shape {data['shape']})"
    found = {
        peer["name"]: {name: float(value) for name, value in peer["figures"].items()}
        for peer in data["peers"]
        if peer["weights"] == weights and kv in peer["kv"]
    }
    if not found:
        return {}, f"none measured for {weights} weights with KV {kv}"
    return found, f"measured {data['measured']} on {data['card']}; {data['conditions']}"


def card_line(card: Card) -> str:
    """One line: what it is, what runs it, what it does."""
    tools = [
        f"{name} {value}"
        for name, value in (("driver", card.driver), ("nvcc", card.nvcc), ("torch for CUDA", card.torch_cuda))
        if value
    ]
    rates = [
        f"{verb} {value:,.0f} {unit}"
        for verb, value, unit in (
            ("reads", card.read_gbytes_per_s, "GB/s"),
            ("copies", card.copy_gbytes_per_s, "GB/s"),
            ("multiplies", card.matrix_tflops, "TFLOP/s"),
        )
        if value is not None
    ]
    return f"{', '.join((card.name, *tools))}: {', '.join(rates) or 'rates not measured'} ({card.source})"
