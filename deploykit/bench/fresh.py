"""A new process of a side each time: how soon it gives its first token, and its memory after a long prompt."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from deploykit.bench import workload
from deploykit.bench.child import JsonChild
from deploykit.bench.engine_run import EngineRun
from deploykit.bench.figures import Job
from deploykit.bench.peers import Peer, Setting
from deploykit.bench.processes import private_bytes
from deploykit.bench.sides import OURS, PeerSide, figures_of
from deploykit.bench.workload import Workload
from deploykit.plan.types import Plan

FIRST = Workload(name="first token", prompt_len=16, output_len=1, concurrency=1, requests=1)


class FreshEngine:
    """Our engine process with one row and the KV of one session of `context` tokens."""

    setting: str | None = None

    def __init__(self, plan: Plan, context: int, vocab_size: int) -> None:
        self.name = OURS
        blocks = min(plan.num_blocks, -(-context // plan.block_len))
        self._plan = msgspec.structs.replace(
            plan, session_len=context, max_batch_size=1, num_blocks=blocks, prefix_caching=False
        )
        self._vocab_size = vocab_size

    def can(self, job: Job) -> bool:
        return job.kind == "fresh"

    def pids(self) -> tuple[int, ...]:
        return ()  # each run has another

    def measure(self, job: Job, run: int) -> dict[str, float]:
        with EngineRun(self._plan) as engine:
            engine.load()

            def ask(shape: Workload, prompts: list[list[int]]) -> None:
                engine.run(shape, prompts)

            return _measure(job, run, self._vocab_size, engine.started, engine.pid, ask)


class FreshPeer:
    """A peer with the context of one sequence of `context` tokens."""

    def __init__(self, peer: Peer, setting: Setting, threads: int, context: int, vocab_size: int) -> None:
        self.name = peer.name
        self.setting: str | None = setting.name
        self._peer, self._setting = peer, setting
        self._threads, self._context, self._vocab_size = threads, context, vocab_size

    def can(self, job: Job) -> bool:
        return job.kind == "fresh"

    def pids(self) -> tuple[int, ...]:
        return ()

    def measure(self, job: Job, run: int) -> dict[str, float]:
        with JsonChild(self._peer.name, self._peer.argv) as child:
            side = PeerSide(self._peer, self._setting, child, self._vocab_size)
            side.load(self._peer, self._threads, self._context, 1)

            def ask(shape: Workload, prompts: list[list[int]]) -> None:
                side.single(prompts[0], shape.output_len)

            return _measure(job, run, self._vocab_size, child.started, child.pid, ask)


def _measure(
    job: Job,
    run: int,
    vocab_size: int,
    started: float,
    pid: int,
    ask: Callable[[Workload, list[list[int]]], None],
) -> dict[str, float]:
    ask(FIRST, workload.prompts(FIRST, vocab_size, run=run))
    values = {"start": time.perf_counter() - started}
    if "memory" in job.groups:
        ask(job.workload, workload.prompts(job.workload, vocab_size, run=run))
        values["memory"] = float(private_bytes(pid))
    return figures_of(job, values)
