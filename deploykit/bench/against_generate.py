"""The engine against `transformers.generate`: same weights, same prompts, one after the other, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploykit.bench import workload as workloads
from deploykit.bench.engine_run import EngineRun
from deploykit.bench.measure import median, spread
from deploykit.bench.peer import PeerProcess
from deploykit.bench.processes import cpu_seconds
from deploykit.bench.report import Comparison, Peer
from deploykit.bench.workload import Workload
from deploykit.plan.types import Plan

PEER_DTYPE = "bfloat16"
SETTLE = 0.5  # seconds between two runs: thread pools of the side that ran go to sleep


def compare(
    plan: Plan, shapes: Sequence[Workload], runs: int, report: Callable[[str], None]
) -> list[Comparison]:
    """Measure every shape `runs` times on each side; which side begins alternates from run to run.

    Both processes are loaded before the first run and one is idle while the other works; the processor time that
    the idle one used is recorded. Every run has prompts of its own, the same for both sides.
    """
    for shape in shapes:
        workloads.check(shape, plan.session_len)
    with EngineRun(plan) as engine, PeerProcess() as peer:
        report(f"loading {plan.model_path} into the engine ({plan.engine}, {plan.dtype})")
        engine.load()
        report(f"loading it into transformers ({PEER_DTYPE})")
        peer.load(plan.model_path, PEER_DTYPE, plan.threads)
        vocab = min(engine.vocab_size, peer.vocab_size)
        return [_measure(plan, engine, peer, shape, vocab, runs, report) for shape in shapes]


def _measure(
    plan: Plan,
    engine: EngineRun,
    peer: PeerProcess,
    shape: Workload,
    vocab: int,
    runs: int,
    report: Callable[[str], None],
) -> Comparison:
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    idle = {"ours": 0.0, "peer": 0.0}
    ttft: list[float] = []

    def ours(prompts: list[list[int]]) -> float:
        run = engine.run(shape, prompts)
        ttft.append(run.ttft)
        return run.seconds

    def theirs(prompts: list[list[int]]) -> float:
        return peer.run(prompts, shape.output_len)[0]

    sides = [("ours", ours, "peer", peer.pid), ("peer", theirs, "ours", engine.pid)]
    for run in range(runs + 1):  # run 0 warms up and isn't counted
        prompts = workloads.prompts(shape, vocab, run=run)
        for side, measure, other, other_pid in sides if run % 2 else sides[::-1]:
            time.sleep(SETTLE)
            before = cpu_seconds(other_pid)
            taken = measure(prompts)
            after = cpu_seconds(other_pid)
            if run:
                seconds[side].append(taken)
                idle[other] += (after or 0.0) - (before or 0.0)
                report(f"{shape.name}, run {run} of {runs}, {side}: {shape.output_tokens / taken:.1f} tok/s")
    first = _peer(
        f"deploykit {plan.engine}", plan.dtype, plan, shape, seconds["ours"], idle["ours"], ttft[1:]
    )
    second = _peer("transformers.generate", PEER_DTYPE, plan, shape, seconds["peer"], idle["peer"], [])
    return Comparison(
        workload=shape,
        model=Path(plan.model_path).name,
        parameters=peer.parameters,
        runs=runs,
        ours=first,
        peer=second,
        ratio=first.median / second.median,
    )


def _peer(
    name: str,
    dtype: str,
    plan: Plan,
    shape: Workload,
    seconds: Sequence[float],
    idle: float,
    ttft: Sequence[float],
) -> Peer:
    rates = tuple(shape.output_tokens / s for s in seconds)
    return Peer(
        name=name,
        dtype=dtype,
        threads=plan.threads,
        seconds=tuple(seconds),
        tokens_per_s=rates,
        median=median(rates),
        spread=spread(rates),
        ttft_s=tuple(ttft),
        idle_cpu_s=idle,
    )
