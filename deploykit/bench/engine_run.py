"""Our side of a comparison: the engine process as a deployment runs it, driven with token ids."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import selectors
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from deploykit.bench.workload import Workload
from deploykit.engine.protocol import Submit
from deploykit.engine.types import SamplingParams, pack, unpack
from deploykit.errors import DeploykitError
from deploykit.plan.types import Plan
from deploykit.server.client import EngineBusy, EngineClient, EngineUnavailable, RequestFailed
from deploykit.supervise.process import Child, python_module

LOAD_TIMEOUT = 900.0  # seconds
CONNECT_TIMEOUT = 10.0
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One run of a workload. Seconds from the first submission."""

    seconds: float  # to the last token
    ttft: float  # to the first token of the first request
    tokens: list[list[int]]
    decode_s: float = 0.0  # from the first request's first output to its last
    decoded: int = 0  # tokens of the first request that came in that time


class EngineRun:
    """An engine process of its own for `plan`, without a server; a context manager that ends it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._ids = itertools.count()
        self._folder = tempfile.TemporaryDirectory(prefix="deploykit-")
        self.socket = Path(self._folder.name) / "engine.sock"
        plan_file = Path(self._folder.name) / "plan.json"
        plan_file.write_bytes(msgspec.json.encode(plan))
        arguments = ["--plan", str(plan_file), "--socket", str(self.socket)]
        module = python_module("deploykit.engine")
        self.started = time.perf_counter()
        self._child = Child("engine", lambda fd: [*module, *arguments, "--status-fd", str(fd)])
        self.vocab_size = 0
        self.ready: dict[str, Any] = {}  # what the engine said when it was

    @property
    def pid(self) -> int:
        return self._child.pid

    def load(self) -> None:
        """Wait until it is ready. Raises DeploykitError with the engine's own words."""
        deadline = time.monotonic() + LOAD_TIMEOUT
        while time.monotonic() < deadline:
            for message in self._hear(1.0):
                if message.get("event") == "ready":
                    detail = message.get("detail") or {}
                    self.ready = dict(detail)
                    self.vocab_size = int(detail.get("vocab_size", self.plan.vocab_size))
                    return
            if self._child.exited():
                raise self._ended()
        raise DeploykitError("the engine did not get ready", why=f"{LOAD_TIMEOUT:.0f} s went by")

    def run(self, workload: Workload, prompts: list[list[int]]) -> Run:
        """Submit all prompts at once, greedy, exactly `output_len` tokens each."""
        return self.run_each(prompts, [workload.output_len] * len(prompts))

    def run_each(self, prompts: Sequence[list[int]], output_lens: Sequence[int]) -> Run:
        """Submit all prompts at once and in this order, greedy, exactly so many tokens each."""
        submits = [
            self._submit(ids, SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True))
            for ids, length in zip(prompts, output_lens, strict=True)
        ]
        return self._ask(self._run(submits))

    def score(self, ids: list[int]) -> list[float]:
        """The log probability of every token but the first, given all before it."""
        return self._ask(self._score(ids))

    def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        self._hear(0.0)  # an engine that nobody hears fills its pipes
        try:
            return asyncio.run(work)
        except (EngineBusy, EngineUnavailable, RequestFailed, TimeoutError) as error:
            self._hear(0.0)
            if self._child.exited():
                raise self._ended() from None
            raise DeploykitError(
                "the engine failed a request", why=str(error) or type(error).__name__
            ) from None

    def _submit(self, ids: list[int], sampling: SamplingParams) -> Submit:
        return Submit(id=f"bench-{next(self._ids)}", token_ids=pack(ids), sampling=sampling)

    async def _run(self, submits: Sequence[Submit]) -> Run:
        async with self._client() as client:
            start = time.perf_counter()
            outputs: list[list[tuple[float, list[int]]]] = [[] for _ in submits]
            await asyncio.gather(
                *(self._one(client, submit, into) for submit, into in zip(submits, outputs, strict=True))
            )
            seconds = time.perf_counter() - start
        tokens = [[token for _, new in row for token in new] for row in outputs]
        asked = [submit.sampling.max_tokens for submit in submits]
        wrong = [(len(row), n) for row, n in zip(tokens, asked, strict=True) if len(row) != n]
        if wrong:
            many = f", and so with {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise DeploykitError(f"the engine made {wrong[0][0]} tokens instead of {wrong[0][1]}{many}")
        (first, at_once), (last, _) = outputs[0][0], outputs[0][-1]
        return Run(seconds, first - start, tokens, last - first, len(tokens[0]) - len(at_once))

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[EngineClient]:
        client = EngineClient(str(self.socket))
        await client.start()
        try:
            await client.wait_ready(CONNECT_TIMEOUT)
            yield client
        finally:
            await client.close()

    async def _one(self, client: EngineClient, submit: Submit, into: list[tuple[float, list[int]]]) -> None:
        async for output in client.generate(submit):
            if output.tokens:
                into.append((time.perf_counter(), unpack(output.tokens).tolist()))

    async def _score(self, ids: list[int]) -> list[float]:
        sampling = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, prompt_logprobs=0)
        submit = self._submit(ids, sampling)
        found: list[float] = []
        async with self._client() as client:
            async for output in client.generate(submit):
                found += [entry.logprob for entry in output.prompt_logprobs]
        if len(found) != len(ids) - 1:
            raise DeploykitError(f"the engine gave {len(found)} log probabilities for {len(ids)} tokens")
        return found

    def _hear(self, timeout: float) -> list[dict[str, Any]]:
        """Status lines that came within `timeout` seconds; the output goes to the child's tail."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.status.fd, selectors.EVENT_READ)
            selector.register(self._child.output.fd, selectors.EVENT_READ)
            selector.select(timeout)
        self._child.read_output()
        return self._child.read_status()

    def _ended(self) -> DeploykitError:
        fatal = self._child.fatal or {}
        what = str(fatal.get("what") or f"the engine {self._child.how_it_ended()}")
        why = fatal.get("why") or " | ".join(list(self._child.tail)[-5:])
        return DeploykitError(what, why=str(why) or None, fix=fatal.get("fix"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        deadline = time.monotonic() + 5.0
        while not self._child.exited() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._child.kill()
        self._child.wait()
        self._child.close()
        self._folder.cleanup()
