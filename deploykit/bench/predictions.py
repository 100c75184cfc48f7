"""The planner's memory against what engines then hold: `deploykit bench --predictions`.

Weights are what the loaded engine counts of its own. Everything else is measured from outside the process after a
load that fills a step and every row, and the number of blocks is worked out again from it, by the planner's rule:

    blocks = floor(ratio * (limit - everything but KV memory) / bytes of a block)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploykit.bench.dummy import SHAPES, WEIGHTS, write_dummy_checkpoint
from deploykit.bench.engine_run import EngineRun
from deploykit.bench.predictions_report import Prediction, Room
from deploykit.bench.processes import memory_bytes
from deploykit.deployment.stage import Report, ignore
from deploykit.errors import ConfigError, DeploykitError
from deploykit.plan import PlanError

if TYPE_CHECKING:
    from deploykit.deployment.prepare import Prepared
    from deploykit.plan.types import Plan

BACKENDS = ("native", "pytorch")
RATIO = 0.8  # what the rule takes where the recipe says nothing
SMALL = 2 << 30  # of a CPU's memory: on a large machine the pool hides what the rest is off by
OUTPUT = 4  # tokens of each request of the load
WEIGHTS_ROWS = ("weights", "embeddings", "output head")


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """`target` is what `up` understands; None: random weights of `shape`."""

    target: str | None = None
    shape: str | None = None
    weights: str | None = None
    device: str = "cpu"
    kv: Sequence[str] = ()
    sets: Sequence[str] = ()


def check(options: PredictionOptions) -> None:
    """Raises ConfigError for what contradicts itself."""
    if options.target is None and options.shape is None:
        raise ConfigError("nothing to predict", fix="name a target, or random weights: --shape llama-3-8b")
    if options.target is not None and (options.shape or options.weights):
        why = f"{options.target} brings its own"
        raise ConfigError("--shape and --weights make random weights", why=why, fix="drop one of them")
    if options.shape is not None and options.shape not in SHAPES:
        raise ConfigError(f"there is no shape {options.shape!r}", fix=f"--shape {' or '.join(SHAPES)}")


def run_predictions(
    options: PredictionOptions, say: Callable[[str], None], stages: Report = ignore
) -> Iterator[Prediction]:
    """One result for each engine and KV type that can be had. Raises PlanError where none can."""
    check(options)
    refused: PlanError | None = None
    count = 0
    with _target(options, say) as target:
        for backend in BACKENDS:
            for kv in dict.fromkeys(options.kv or ("none",)):
                try:
                    yield _measure(target, backend, kv, options, say, stages)
                    count += 1
                except PlanError as error:
                    refused = error
                    say(f"{backend}, KV {kv}: {error.what}: {error.why}")
    if not count and refused is not None:
        raise refused


@contextmanager
def _target(options: PredictionOptions, say: Callable[[str], None]) -> Iterator[str]:
    if options.target is not None:
        yield options.target
        return
    shape, weights = str(options.shape), options.weights or WEIGHTS[0]
    with tempfile.TemporaryDirectory(prefix="deploykit-bench-") as folder:
        say(f"writing random {weights} weights of {shape} to {folder}")
        yield str(write_dummy_checkpoint(Path(folder) / f"{shape}-{weights}", SHAPES[shape], weights))


def _measure(
    target: str,
    backend: str,
    kv: str,
    options: PredictionOptions,
    say: Callable[[str], None],
    stages: Report,
) -> Prediction:
    from deploykit.deployment.prepare import prepare

    sets = (
        f"engine.device={options.device}",
        "chat.capability=completion",
        *options.sets,
        f"engine.backend={backend}",
        f"engine.cache.quant_policy={kv}",
        "engine.cache.prefix_caching=false",
    )
    prepared = prepare(target, sets=sets, report=stages)
    plan = prepared.plan
    say(f"{prepared.loaded.name}: {plan.engine} on {plan.device}, KV {plan.kv_dtype}")
    prompts, blocks = _load(plan)
    free = _gpu_free(plan)
    with EngineRun(plan) as engine:
        engine.load()
        ready = engine.ready
        if plan.device == "cuda":
            engine.run_each(prompts, [OUTPUT] * len(prompts))
            rest = free - _gpu_free(plan) - ready["num_blocks"] * ready["block_bytes"]
    if plan.device == "cpu":
        # Pages of KV memory are there once they are written: a pool that the load fills, so that the rest is known.
        with EngineRun(msgspec.structs.replace(plan, num_blocks=blocks)) as engine:
            engine.load()
            engine.run_each(prompts, [OUTPUT] * len(prompts))
            rest = memory_bytes(engine.pid)[1] - blocks * engine.ready["block_bytes"]
    result = _compare(prepared, ready, rest)
    say(f"weights off by {result.weights_error:+.2%}, blocks by {result.rooms[0].error:+.2%}")
    return result


def _load(plan: Plan) -> tuple[list[list[int]], int]:
    """(prompts, blocks that they fill): one as long as a step or a session is, and a token for every other row."""
    longest = min(plan.max_prefill_tokens, plan.session_len - OUTPUT)
    lengths = [longest, *[min(plan.block_len, plan.session_len - OUTPUT)] * (plan.max_batch_size - 1)]
    prompts = [[(7 * row + 3 * i) % (plan.vocab_size - 2) for i in range(n)] for row, n in enumerate(lengths)]
    return prompts, sum(-(-(n + OUTPUT) // plan.block_len) for n in lengths)


def _gpu_free(plan: Plan) -> int:
    """Bytes free on the GPU that the plan names; 0 on a CPU."""
    if plan.device != "cuda":
        return 0
    from deploykit import hardware

    found = next((gpu.free_bytes for gpu in hardware.probe().gpus if gpu.index in plan.devices), None)
    if found is None:
        raise DeploykitError("the GPU doesn't say how much memory it has left", where=f"GPU {plan.devices}")
    return found


def _compare(prepared: Prepared, ready: dict[str, int], rest: int) -> Prediction:
    plan, ratio = prepared.plan, prepared.loaded.recipe.engine.cache.ratio or RATIO
    rows = {item.name: item.bytes for item in plan.memory}
    predicted = plan.total_bytes - rows["kv"]
    limits = [plan.memory_limit]
    if plan.device == "cpu" and plan.memory_limit > SMALL:
        limits.append(SMALL)
    return Prediction(
        model=prepared.loaded.name,
        parameters=prepared.facts.num_parameters,
        stored_as=prepared.facts.weight_dtype,
        engine=plan.engine,
        device=plan.device_name or plan.device,
        dtype=plan.dtype,
        kv_dtype=plan.kv_dtype,
        session_len=plan.session_len,
        max_batch_size=plan.max_batch_size,
        memory=plan.memory,
        weights_predicted=sum(rows[name] for name in WEIGHTS_ROWS if name in rows),
        weights_measured=ready["weight_bytes"],
        block_bytes_predicted=plan.block_bytes,
        block_bytes_measured=ready["block_bytes"],
        blocks_planned=plan.num_blocks,
        blocks_allocated=ready["num_blocks"],
        rest_predicted=predicted,
        rest_measured=rest,
        ratio=ratio,
        rooms=tuple(
            Room(
                limit=limit,
                predicted=int(max(0, limit - predicted) * ratio) // plan.block_bytes,
                measured=int(max(0, limit - rest) * ratio) // ready["block_bytes"],
            )
            for limit in limits
        ),
    )
