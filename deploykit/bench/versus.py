"""The engine beside other engines: same model, threads and prompts, in turns, each peer at its best setting."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploykit.bench import ceilings, figures, turns, workload
from deploykit.bench.child import JsonChild
from deploykit.bench.engine_run import EngineRun
from deploykit.bench.figures import Job
from deploykit.bench.fresh import FreshEngine, FreshPeer
from deploykit.bench.peers import Peer
from deploykit.bench.sides import OURS, EngineSide, PeerSide, Side, http_side
from deploykit.bench.turns import Best, Say
from deploykit.bench.versus_report import SideFacts, Versus
from deploykit.bench.work import work_of
from deploykit.checkpoint.facts import Facts
from deploykit.deployment.stage import Report, ignore
from deploykit.plan.types import Plan


@dataclass(frozen=True, kw_only=True)
class Options:
    """`tries` runs of each setting choose a peer's best; where there are several the first one warms up."""

    rounds: int = 5
    tries: int = 3
    settle: float = 0.5  # seconds before each run
    target: str = ""  # what the server is started with
    sets: Sequence[str] = ()
    profiles: Sequence[str] = ()
    stages: Report = ignore


@dataclass(frozen=True)
class _Field:
    """What all sides share."""

    plan: Plan
    facts: Facts
    context: int  # tokens of one sequence
    sequences: int  # at once

    @property
    def vocab(self) -> int:
        return self.facts.vocab_size


def compare(
    plan: Plan, facts: Facts, peers: Sequence[Peer], jobs: Sequence[Job], options: Options, say: Say
) -> Versus:
    """Measure every job of every side `options.rounds` times.

    First each setting of each peer is tried at each job: the one that is best at a figure stands in the rounds.
    """
    for job in jobs:
        workload.check(job.workload, plan.session_len)
    context = -(-figures.session_len(jobs) // plan.block_len) * plan.block_len
    sequences = max((job.requests for job in jobs if job.kind == "batch"), default=1)
    field = _Field(plan, facts, context, sequences)
    say(f"read bandwidth of {plan.threads} threads")
    limits = ceilings.measure(plan.threads)
    with contextlib.ExitStack() as stack:
        others = [side for peer in peers for side in _loaded(stack, field, peer, jobs, say)]
        tuning = turns.tune(others, jobs, options.tries, options.settle, say)
        best = turns.best_settings(tuning, jobs)
        chosen = {peer.name: _fresh_setting(peer, best) for peer in peers}
        sides = _ours(stack, field, jobs, options, say)
        sides += [
            side for side in others if (side.name, side.setting) in {(n, s) for (_, n), s in best.items()}
        ]
        sides += [
            FreshPeer(peer, setting, plan.threads, context, field.vocab)
            for peer in peers
            for setting in peer.settings
            if setting.name == chosen[peer.name]
        ]
        samples = turns.rounds(sides, jobs, best, options.rounds, options.settle, say)
    work = work_of(facts, plan)
    made = (turns.result_of(figure, samples, best, work, chosen) for job in jobs for figure in job.figures)
    kv = {side.name: side.kv_dtype for side in others}
    return Versus(
        model=Path(plan.model_path).name,
        engine=plan.engine,
        dtype=plan.dtype,
        threads=plan.threads,
        rounds=options.rounds,
        sides=(
            SideFacts(name=OURS, version=plan.engine, kv_dtype=plan.kv_dtype, settings=()),
            *(_facts_of(peer, kv.get(peer.name, "unknown")) for peer in peers),
        ),
        figures=tuple(result for result in made if result is not None),
        ceilings=limits,
        tuning=tuple(tuning),
        samples=tuple(samples),
    )


def _ours(
    stack: contextlib.ExitStack, field: _Field, jobs: Sequence[Job], options: Options, say: Say
) -> list[Side]:
    plan, kinds = field.plan, {job.kind for job in jobs}
    sides: list[Side] = [FreshEngine(plan, field.context, field.vocab)]
    if kinds & {"single", "batch"}:
        say(f"loading {plan.model_path} into the engine ({plan.engine}, {plan.dtype})")
        engine = stack.enter_context(EngineRun(plan))
        engine.load()
        sides.append(EngineSide(engine, field.vocab))
    if "http" in kinds:
        say("starting the server")
        http = http_side(options.target, options.sets, options.profiles, options.stages)
        sides.append(stack.enter_context(http))
    return sides


def _loaded(
    stack: contextlib.ExitStack, field: _Field, peer: Peer, jobs: Sequence[Job], say: Say
) -> list[PeerSide]:
    """A process for each setting that some job needs."""
    sides = []
    for setting in peer.settings:
        if not any(job.kind in setting.jobs for job in jobs):
            continue
        say(f"loading it into {peer.name} ({setting.name})")
        child = stack.enter_context(JsonChild(peer.name, peer.argv))
        side = PeerSide(peer, setting, child, field.vocab)
        side.load(peer, field.plan.threads, field.context, field.sequences)
        sides.append(side)
    return sides


def _fresh_setting(peer: Peer, best: Best) -> str:
    """For start and memory: the setting that is best at most decode figures, else the peer's first."""
    wins = [
        s for (figure, side), s in best.items() if side == peer.name and figure.startswith("decode") and s
    ]
    return max(wins, key=wins.count) if wins else peer.settings[0].name


def _facts_of(peer: Peer, kv_dtype: str) -> SideFacts:
    settings = tuple(setting.name for setting in peer.settings)
    return SideFacts(name=peer.name, version=peer.version, kv_dtype=kv_dtype, settings=settings)
