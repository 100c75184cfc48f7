"""One HTTP request's generation: its prompts are submitted, and their outputs become one stream of deltas."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from deploykit.engine.protocol import Output, Submit
from deploykit.engine.types import SamplingParams, TokenLogprob, pack
from deploykit.prompt.tokenizer import Tokenizer
from deploykit.server.choice import Choice, Delta
from deploykit.server.client import EngineClient
from deploykit.server.metrics import Metrics


@dataclass
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def body(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True)
class Job:
    """What one request asks of the engine. Choice `p * n + i` is the i-th answer to prompt p."""

    request_id: str
    prompts: Sequence[Sequence[int]]
    sampling: SamplingParams
    n: int = 1
    stops: tuple[str, ...] = ()
    skip_special: bool = True  # control tokens give no text
    salt: str = ""
    deadline_s: float | None = None
    arrived: float = field(default_factory=time.monotonic)


class Generation:
    """Runs a job. `prompt_logprobs[p]` and `usage` fill up while it runs."""

    def __init__(self, job: Job, client: EngineClient, tokenizer: Tokenizer, metrics: Metrics) -> None:
        self.job = job
        self.usage = Usage(prompt_tokens=sum(len(prompt) for prompt in job.prompts))
        self.prompt_logprobs: list[list[TokenLogprob]] = [[] for _ in job.prompts]
        self._client = client
        self._metrics = metrics
        self._choices = [
            Choice(tokenizer, index, job.stops, job.sampling.min_tokens, skip_special=job.skip_special)
            for index in range(len(job.prompts) * job.n)
        ]
        self._last_token = [0.0] * len(self._choices)  # time.monotonic()
        self._first_token_seen = False

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Deltas of all choices as they come, until every choice has finished.

        Close it (`contextlib.aclosing`) to abort what still runs. Raises EngineUnavailable, EngineBusy, RequestFailed.
        """
        try:
            if len(self.job.prompts) == 1:
                stream = self._one(0)
            else:
                self._client.check(len(self.job.prompts))  # all of them or none
                stream = self._many()
            async with contextlib.aclosing(stream):
                async for delta in stream:
                    yield delta
        finally:
            self._metrics.prompt_tokens += self.usage.prompt_tokens
            self._metrics.cached_tokens += self.usage.cached_tokens
            self._metrics.output_tokens += self.usage.completion_tokens
            self._metrics.e2e.observe(time.monotonic() - self.job.arrived)

    async def _one(self, prompt: int) -> AsyncGenerator[Delta, None]:
        """The deltas of one prompt's choices; a request whose choices have all ended early is aborted."""
        job = self.job
        choices = self._choices[prompt * job.n : (prompt + 1) * job.n]
        submit = Submit(
            id=f"{job.request_id}/{prompt}",
            token_ids=pack(job.prompts[prompt]),
            sampling=job.sampling,
            n=job.n,
            deadline_s=job.deadline_s,
            salt=job.salt,
        )
        unfinished = len(choices)
        async with contextlib.aclosing(self._client.generate(submit)) as outputs:
            async for output in outputs:
                self._note(prompt, output)
                delta = choices[output.index].push(output)
                if delta is None:
                    continue
                self.usage.completion_tokens += delta.tokens
                if delta.tokens:
                    self._time(delta)
                yield delta
                if delta.finish is not None:
                    unfinished -= 1
                    if unfinished == 0:
                        return

    async def _many(self) -> AsyncGenerator[Delta, None]:
        """The deltas of several prompts, interleaved as they come; the first failure ends them all."""
        queue: asyncio.Queue[Delta | Exception | None] = asyncio.Queue()

        async def pump(prompt: int) -> None:
            try:
                async with contextlib.aclosing(self._one(prompt)) as stream:
                    async for delta in stream:
                        queue.put_nowait(delta)
            except Exception as error:
                queue.put_nowait(error)
            else:
                queue.put_nowait(None)

        tasks = [asyncio.create_task(pump(prompt)) for prompt in range(len(self.job.prompts))]
        try:
            left = len(tasks)
            while left:
                item = await queue.get()
                if item is None:
                    left -= 1
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _note(self, prompt: int, output: Output) -> None:
        if output.index == 0:
            self.usage.cached_tokens += output.cached_tokens
            if output.prompt_logprobs:
                self.prompt_logprobs[prompt] += output.prompt_logprobs

    def _time(self, delta: Delta) -> None:
        now = time.monotonic()
        last = self._last_token[delta.choice]
        if last:
            self._metrics.itl.observe((now - last) / delta.tokens, delta.tokens)
        elif not self._first_token_seen:
            self._first_token_seen = True
            self._metrics.ttft.observe(now - self.job.arrived)
        self._last_token[delta.choice] = now
