"""`deploykit bench --dataset`: conversations of a file sent to a server, and what serving benchmarks print of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from deploykit.bench import dataset
from deploykit.bench.gpu_workloads import IdRequest
from deploykit.bench.http_client import Timing
from deploykit.bench.http_load import latencies, send
from deploykit.bench.measure import percentile
from deploykit.bench.suite_report import DatasetLoad, Distribution
from deploykit.chat.run import endpoint
from deploykit.chat.target import Attach, choose
from deploykit.checkpoint import read_facts
from deploykit.checkpoint.tokenizer import encode_plain, ensure_tokenizer, load_tokenizer
from deploykit.deployment.prepare import fetch_weights
from deploykit.deployment.stage import Report
from deploykit.deployment.target import load
from deploykit.errors import ConfigError, DeploykitError
from deploykit.fsutil import cache_dir
from deploykit.supervise.state import read_all

PROMPTS, CONCURRENCY = 1000, 256


def run_dataset(
    path: Path,
    target: str | None,
    *,
    num_prompts: int | None,
    concurrency: int | None,
    tokenizer: Path | None,
    model: str | None,
    sets: Sequence[str],
    profiles: Sequence[str],
    stages: Report,
    say: Callable[[str], None],
) -> DatasetLoad:
    """Everything at once up to `concurrency`, greedy, end-of-text ignored. Raises ConfigError and DeploykitError."""
    dialogs = dataset.read_dialogs(path)
    encode = _encoder(target, tokenizer, sets, profiles, stages)
    wanted, at_once = num_prompts or PROMPTS, concurrency or CONCURRENCY
    requests = dataset.sample(dialogs, wanted, encode)
    if not requests:
        raise ConfigError(
            f"no conversation of {path} can be asked",
            why=f"of {len(dialogs)} with two turns, none has {dataset.MIN_TOKENS} tokens or more in both, "
            f"at most {dataset.MAX_PROMPT} in the prompt and {dataset.MAX_TOTAL} in all",
        )
    if len(requests) < wanted:
        say(f"{path.name} has {len(requests)} conversations that can be asked, {wanted} were wanted")
    if not isinstance(choose(target), Attach):  # a server of our own takes all that come
        sets = (*sets, f"server.limits.max_queue={max(at_once, 256)}")
    with endpoint(target, say=say, report=stages, recipe_sets=sets, profiles=profiles) as client:
        models = client.models()
        if not models:
            raise DeploykitError("the server lists no model", where=client.base)
        name = model or models[0]
        say("warming up")
        first = requests[0]._replace(output_len=dataset.MIN_TOKENS)
        _, _, errors = asyncio.run(send(client.base, client.api_key, name, [first], 1))
        if errors:
            why = next(iter(errors))
            raise DeploykitError("the server refused the first request", where=client.base, why=why)
        say(f"{len(requests)} requests, {at_once} at once")
        done = asyncio.run(send(client.base, client.api_key, name, requests, at_once))
        return summarize(path.name, client.base, name, requests, at_once, done)


def summarize(
    name: str,
    base: str,
    model: str,
    requests: Sequence[IdRequest],
    concurrency: int,
    done: tuple[list[Timing], float, dict[str, int]],
) -> DatasetLoad:
    """The figures of (timings of whole answers, seconds in all, errors). Raises DeploykitError without any answer."""
    timings, seconds, errors = done
    if not timings:
        raise DeploykitError("every request failed", where=base, why=next(iter(errors), None))
    prompt, output = sum(t.prompt_tokens for t in timings), sum(t.output_tokens for t in timings)
    found = latencies(timings)
    return DatasetLoad(
        dataset=name,
        url=base,
        model=model,
        requests=len(requests),
        concurrency=concurrency,
        completed=len(timings),
        errors=errors,
        elapsed_s=seconds,
        prompt_tokens=prompt,
        output_tokens=output,
        requests_per_s=len(timings) / seconds,
        prompt_tokens_per_s=prompt / seconds,
        output_tokens_per_s=output / seconds,
        tokens_per_s=(prompt + output) / seconds,
        ttft_s=distribution(found.ttft),
        tpot_s=distribution(found.tpot),
        itl_s=distribution(found.itl),
        latency_s=distribution(found.latency),
    )


def distribution(values: Sequence[float]) -> Distribution | None:
    """None of nothing."""
    if not values:
        return None
    p50, p75, p95, p99 = (percentile(values, q) for q in (50, 75, 95, 99))
    mean = math.fsum(values) / len(values)
    return Distribution(
        count=len(values), min=min(values), max=max(values), mean=mean, p50=p50, p75=p75, p95=p95, p99=p99
    )


def _encoder(
    target: str | None,
    tokenizer: Path | None,
    sets: Sequence[str],
    profiles: Sequence[str],
    stages: Report,
) -> Callable[[str], list[int]]:
    """Text to token ids, without special tokens: by the tokenizer that is named, else by that of the model."""
    path = _tokenizer_file(target, tokenizer, sets, profiles, stages)
    loaded = load_tokenizer(path)
    return lambda text: encode_plain(loaded, text)


def _tokenizer_file(
    target: str | None,
    given: Path | None,
    sets: Sequence[str],
    profiles: Sequence[str],
    stages: Report,
) -> Path:
    if given is not None:
        if given.suffix == ".json" and given.is_file():
            return given
        if not given.exists():
            raise ConfigError(f"--tokenizer {given}: there is nothing of that name")
        return ensure_tokenizer(read_facts(given), cache_dir()).tokenizer_json
    where = choose(target)
    if isinstance(where, Attach):
        ours = [s.target for s in read_all() if where.deployment is not None and s.name == where.deployment]
        if not ours:
            raise ConfigError(
                "the lengths of a dataset are counted in the model's tokens",
                why="a URL doesn't tell its tokenizer",
                fix="--tokenizer with a tokenizer.json, a model folder or a .gguf file",
            )
        source = ours[0]
    else:
        source = where.target
    loaded = load(source, sets=sets, profiles=profiles, report=stages)
    fetched = fetch_weights(loaded, cache=cache_dir(), report=stages)
    return ensure_tokenizer(read_facts(fetched.path), cache_dir()).tokenizer_json
