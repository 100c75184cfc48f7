"""Our side of a comparison: the engine process as a deployment runs it, driven with token ids."""

from __future__ import annotations

import asyncio
import itertools
import selectors
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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


@dataclass(frozen=True)
class Run:
    """One run of a workload. Seconds from the first submission."""

    seconds: float  # to the last token
    ttft: float  # to the first token of the first request
    tokens: list[list[int]]


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
        self._child = Child("engine", lambda fd: [*module, *arguments, "--status-fd", str(fd)])
        self.vocab_size = 0

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
                    self.vocab_size = int(detail.get("vocab_size", self.plan.vocab_size))
                    return
            if self._child.exited():
                raise self._ended()
        raise DeploykitError("the engine did not get ready", why=f"{LOAD_TIMEOUT:.0f} s went by")

    def run(self, workload: Workload, prompts: list[list[int]]) -> Run:
        """Submit all prompts at once, greedy, exactly `output_len` tokens each."""
        self._hear(0.0)  # an engine that nobody hears fills its pipes
        try:
            return asyncio.run(self._run(workload, prompts))
        except (EngineBusy, EngineUnavailable, RequestFailed, TimeoutError) as error:
            self._hear(0.0)
            if self._child.exited():
                raise self._ended() from None
            raise DeploykitError(
                "the engine failed a request", why=str(error) or type(error).__name__
            ) from None

    async def _run(self, workload: Workload, prompts: list[list[int]]) -> Run:
        client = EngineClient(str(self.socket))
        await client.start()
        try:
            await client.wait_ready(CONNECT_TIMEOUT)
            start = time.perf_counter()
            firsts = [0.0] * len(prompts)
            jobs = [self._one(client, workload, ids, i, firsts) for i, ids in enumerate(prompts)]
            tokens = await asyncio.gather(*jobs)
            seconds = time.perf_counter() - start
        finally:
            await client.close()
        short = [len(row) for row in tokens if len(row) != workload.output_len]
        if short:
            raise DeploykitError(f"the engine made {short} tokens instead of {workload.output_len}")
        return Run(seconds, firsts[0] - start, tokens)

    async def _one(
        self, client: EngineClient, workload: Workload, ids: list[int], index: int, firsts: list[float]
    ) -> list[int]:
        sampling = SamplingParams(temperature=0.0, max_tokens=workload.output_len, ignore_eos=True)
        submit = Submit(id=f"bench-{next(self._ids)}", token_ids=pack(ids), sampling=sampling)
        tokens: list[int] = []
        async for output in client.generate(submit):
            if output.tokens and not tokens:
                firsts[index] = time.perf_counter()
            tokens += unpack(output.tokens).tolist()
        return tokens

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
