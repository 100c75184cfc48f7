"""Load over HTTP: a fixed number of requests at once, and what a client sees of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from deploykit.bench import workload as workloads
from deploykit.bench.http_client import HttpFailed, Timing, complete
from deploykit.bench.measure import summarize
from deploykit.bench.report import HttpLoad
from deploykit.bench.workload import Workload
from deploykit.errors import DeploykitError

TIMEOUT = 900.0  # seconds a request
VOCAB = 1000  # token ids that every model of practical size has


def measure(
    base: str, api_key: str | None, model: str, shape: Workload, report: Callable[[str], None]
) -> HttpLoad:
    """Send `shape.requests` completions, `shape.concurrency` at once. Raises DeploykitError when none succeeds."""
    workloads.check(shape)
    warm = workloads.prompts(shape, VOCAB, run=0)[:1]
    report("warming up")
    _, _, errors = asyncio.run(send(base, api_key, model, [(warm[0], shape.output_len)], 1))
    if errors:
        raise DeploykitError("the server refused the first request", where=base, why=next(iter(errors)))
    report(f"{shape.requests} requests, {shape.concurrency} at once")
    return once(base, api_key, model, shape, run=1)


def once(base: str, api_key: str | None, model: str, shape: Workload, *, run: int) -> HttpLoad:
    """One such load with the prompts of `run`. Raises DeploykitError when no request succeeds."""
    prompts = workloads.prompts(shape, VOCAB, run=run)
    requests = [(ids, shape.output_len) for ids in prompts]
    timings, seconds, errors = asyncio.run(send(base, api_key, model, requests, shape.concurrency))
    if not timings:
        raise DeploykitError("every request failed", where=base, why=next(iter(errors)))
    return summarize_load(base, model, shape, timings, seconds, errors)


def summarize_load(
    base: str, model: str, shape: Workload, timings: Sequence[Timing], seconds: float, errors: dict[str, int]
) -> HttpLoad:
    """The figures of a run that took `seconds` in all."""
    output = sum(t.output_tokens for t in timings)
    found = latencies(timings)
    return HttpLoad(
        workload=shape,
        url=base,
        model=model,
        seconds=seconds,
        completed=len(timings),
        errors=errors,
        prompt_tokens=sum(t.prompt_tokens for t in timings),
        output_tokens=output,
        requests_per_s=len(timings) / seconds,
        output_tokens_per_s=output / seconds,
        ttft_s=summarize(found.ttft),
        itl_s=summarize(found.itl),
        tpot_s=summarize(found.tpot),
        latency_s=summarize(found.latency),
        raw_ttft_s=tuple(found.ttft),
        raw_latency_s=tuple(found.latency),
    )


class Latencies(NamedTuple):
    """In seconds."""

    ttft: list[float]  # from sending a request to its first text
    itl: list[float]  # between pieces of text of one request
    tpot: list[float]  # a request's time after its first text, per token
    latency: list[float]


def latencies(timings: Sequence[Timing]) -> Latencies:
    """Of whole answers, in their order; one without text has a latency alone."""
    return Latencies(
        ttft=[t.pieces[0] - t.started for t in timings if t.pieces],
        itl=[b - a for t in timings for a, b in zip(t.pieces, t.pieces[1:], strict=False)],
        tpot=[
            (t.pieces[-1] - t.pieces[0]) / (t.output_tokens - 1)
            for t in timings
            if t.pieces and t.output_tokens > 1
        ],
        latency=[t.ended - t.started for t in timings],
    )


async def send(
    base: str,
    api_key: str | None,
    model: str,
    requests: Sequence[tuple[list[int], int]],
    concurrency: int,
) -> tuple[list[Timing], float, dict[str, int]]:
    """(timings of the whole answers, seconds in all, errors by message) of (token ids, output tokens) requests."""
    room = asyncio.Semaphore(concurrency)
    errors: Counter[str] = Counter()

    async def one(prompt: list[int], output_len: int) -> Timing | None:
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            "max_tokens": output_len,
            "temperature": 0,
            "ignore_eos": True,
        }
        async with room:
            try:
                return await complete(base, api_key, body, TIMEOUT)
            except HttpFailed as error:
                errors[str(error)] += 1
                return None

    start = time.perf_counter()
    timings = await asyncio.gather(*(one(*request) for request in requests))
    seconds = time.perf_counter() - start
    return [t for t in timings if t is not None], seconds, dict(errors)
