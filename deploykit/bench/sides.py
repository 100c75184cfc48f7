"""The sides of a comparison behind one call: run a job, get its figures by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from deploykit.bench import http_load, workload
from deploykit.bench.child import JsonChild
from deploykit.bench.engine_run import EngineRun
from deploykit.bench.figures import Job
from deploykit.bench.peers import Peer, Setting
from deploykit.chat.client import base_url
from deploykit.deployment.stage import Report
from deploykit.errors import DeploykitError
from deploykit.supervise import state
from deploykit.supervise.launch import launch

OURS = "deploykit"
OURS_HTTP = "deploykit over HTTP"


class Side(Protocol):
    """Something that is measured."""

    name: str
    setting: str | None

    def can(self, job: Job) -> bool: ...

    def pids(self) -> tuple[int, ...]:
        """The processes that compute, while they run."""
        ...

    def measure(self, job: Job, run: int) -> dict[str, float]:
        """Figures by name. The same `run` has the same prompts on every side."""
        ...


def figures_of(job: Job, values: dict[str, float]) -> dict[str, float]:
    """Values by group, as the job's figures by name."""
    return {figure.name: values[figure.group] for figure in job.figures if figure.group in values}


class EngineSide:
    """Our engine process, driven with token ids."""

    setting: str | None = None

    def __init__(self, engine: EngineRun, vocab_size: int) -> None:
        self.name = OURS
        self.engine = engine
        self.vocab_size = vocab_size

    def can(self, job: Job) -> bool:
        return job.kind in ("single", "batch")

    def pids(self) -> tuple[int, ...]:
        return (self.engine.pid,)

    def measure(self, job: Job, run: int) -> dict[str, float]:
        shape = job.workload
        done = self.engine.run(shape, workload.prompts(shape, self.vocab_size, run=run))
        if job.kind == "batch":
            return figures_of(job, {"batch": shape.output_tokens / done.seconds})
        decode = done.decoded / done.decode_s if done.decode_s else 0.0
        return figures_of(job, {"decode": decode, "prefill": job.prompt_len / done.ttft})


class HttpSide:
    """Our server, with streams of completions."""

    setting: str | None = None

    def __init__(self, base: str, model: str, pids: tuple[int, ...]) -> None:
        self.name = OURS_HTTP
        self._base, self._model, self._pids = base, model, pids

    def can(self, job: Job) -> bool:
        return job.kind == "http"

    def pids(self) -> tuple[int, ...]:
        return self._pids

    def measure(self, job: Job, run: int) -> dict[str, float]:
        load = http_load.once(self._base, None, self._model, job.workload, run=run)
        if load.errors:
            raise DeploykitError("a request of the benchmark failed", why=next(iter(load.errors)))
        return figures_of(job, {"http": load.output_tokens_per_s})


@contextlib.contextmanager
def http_side(
    target: str, sets: Sequence[str], profiles: Sequence[str], report: Report
) -> Iterator[HttpSide]:
    """A private deployment of `target`, as long as the block lasts."""
    with launch(target, sets=sets, profiles=profiles, private=True, report=report) as launched:
        launched.wait_ready(report)
        record = state.read(launched.name)
        pids = (record.front_pid, record.engine_pid) if record is not None else ()
        yield HttpSide(base_url(launched.url), launched.model, tuple(p for p in pids if p is not None))


class PeerSide:
    """A peer in one of its settings, loaded in a process of its own."""

    def __init__(self, peer: Peer, setting: Setting, child: JsonChild, vocab_size: int) -> None:
        self.name = peer.name
        self.setting: str | None = setting.name
        self._jobs, self._child, self._vocab_size = setting.jobs, child, vocab_size
        self.kv_dtype = ""

    def can(self, job: Job) -> bool:
        return job.kind in self._jobs

    def pids(self) -> tuple[int, ...]:
        return (self._child.pid,)

    def load(self, peer: Peer, threads: int, context: int, sequences: int) -> None:
        reply = self._child.call(
            {
                "op": "load",
                "model_path": peer.model_path,
                "folder": peer.folder,
                "setting": self.setting,
                "threads": threads,
                "context": context,
                "sequences": sequences,
            }
        )
        self.kv_dtype = str(reply["kv_dtype"])

    def measure(self, job: Job, run: int) -> dict[str, float]:
        shape = job.workload
        prompts = workload.prompts(shape, self._vocab_size, run=run)
        if job.kind == "batch":
            reply = self._child.call({"op": "batch", "prompts": prompts, "output_len": shape.output_len})
            return figures_of(job, {"batch": float(reply["output_tokens"]) / float(reply["seconds"])})
        reply = self.single(prompts[0], shape.output_len)
        decode = (shape.output_len - 1) / float(reply["decode_s"])
        return figures_of(job, {"decode": decode, "prefill": job.prompt_len / float(reply["prefill_s"])})

    def single(self, prompt: list[int], output_len: int) -> dict[str, Any]:
        return self._child.call({"op": "single", "prompt": prompt, "output_len": output_len})
