"""What is compared with other engines: the runs that are made, and the figures that come out of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from deploykit.bench.workload import Workload
from deploykit.errors import ConfigError

GROUPS = ("decode", "prefill", "batch", "http", "memory", "start")
Kind = Literal["single", "batch", "http", "fresh"]
TOKENS, BYTES, SECONDS = "tok/s", "bytes", "s"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a side. `single` is one request, `batch` all at once through the engine, `http` the same through the
    server as streams, `fresh` a new process: its first token, then one request, then its memory."""

    kind: Kind
    groups: tuple[str, ...]  # of GROUPS: the figures that are taken from it
    prompt_len: int
    output_len: int
    requests: int = 1

    @property
    def workload(self) -> Workload:
        return Workload(
            name=f"{self.kind}, {self.prompt_len} in, {self.output_len} out",
            prompt_len=self.prompt_len,
            output_len=self.output_len,
            concurrency=self.requests,
            requests=self.requests,
        )

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(Figure(group=group, job=self) for group in self.groups)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the comparison."""

    group: str
    job: Job

    @property
    def name(self) -> str:
        if self.group in ("decode", "prefill"):
            return f"{self.group}_{self.job.prompt_len}"
        if self.group in ("batch", "http"):
            return f"{self.group}_{self.job.requests}"
        return self.group

    @property
    def title(self) -> str:
        job = self.job
        match self.group:
            case "decode":
                return f"decode after {job.prompt_len:,} tokens"
            case "prefill":
                return f"prefill of {job.prompt_len:,} tokens"
            case "batch":
                return f"{job.requests} at once ({job.prompt_len} in, {job.output_len} out)"
            case "http":
                return f"{job.requests} at once over HTTP, against our engine"
            case "memory":
                return f"private memory after {job.prompt_len + job.output_len:,} tokens"
            case _:
                return "process start to first token"

    @property
    def unit(self) -> str:
        return {"memory": BYTES, "start": SECONDS}.get(self.group, TOKENS)

    @property
    def higher_is_better(self) -> bool:
        return self.unit == TOKENS


JOBS = (
    Job(kind="single", groups=("decode",), prompt_len=16, output_len=128),
    Job(kind="single", groups=("decode", "prefill"), prompt_len=512, output_len=128),
    Job(kind="single", groups=("decode", "prefill"), prompt_len=2048, output_len=128),
    Job(kind="batch", groups=("batch",), prompt_len=64, output_len=128, requests=16),
    Job(kind="http", groups=("http",), prompt_len=64, output_len=128, requests=16),
    Job(kind="fresh", groups=("start", "memory"), prompt_len=2048, output_len=16),
)


def chosen_jobs(only: Iterable[str], jobs: Sequence[Job] = JOBS) -> tuple[Job, ...]:
    """The jobs with the figures of `only` (all where it is empty). `http` brings `batch`, which it is compared with."""
    wanted = set(only)
    if unknown := sorted(wanted - set(GROUPS)):
        raise ConfigError(f"there is no figure {unknown[0]!r}", fix=f"one of {', '.join(GROUPS)}")
    if not wanted:
        return tuple(jobs)
    if "http" in wanted:
        wanted.add("batch")
    kept = (msgspec.structs.replace(j, groups=tuple(g for g in j.groups if g in wanted)) for j in jobs)
    return tuple(job for job in kept if job.groups)


def session_len(jobs: Sequence[Job]) -> int:
    """Tokens of the longest session."""
    return max(job.workload.session_len for job in jobs)
