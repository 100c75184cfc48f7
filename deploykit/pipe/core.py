"""What stands behind a pipe: the engine process, its client on an event loop in a thread, and the calls at work.

Nothing here refers to the pipe itself, so that a pipe that nobody holds any more can go, and take this with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from deploykit.errors import DeploykitError
from deploykit.pipe.engine import EngineHost
from deploykit.pipe.errors import GenerationError
from deploykit.pipe.prompts import failure
from deploykit.server.choice import Delta
from deploykit.server.client import EngineClient, EngineUnavailable, RequestFailed
from deploykit.server.errors import ApiError, from_engine
from deploykit.server.generation import Generation, Job
from deploykit.server.service import Service

log = logging.getLogger("deploykit.pipe")

_CLOSE_S = 5.0  # for the running requests to hear of the end
_POLL_S = 0.25  # between two looks at the engine's host, while the engine is away

OnDelta = Callable[[Generation, Delta], None]
OnEnd = Callable[[GenerationError | None], None]


class Core:
    """Thread-safe. `close` ends everything, once, and only in the process that made it."""

    def __init__(self, service: Service, host: EngineHost) -> None:
        """Raises DeploykitError where the engine can't start; nothing is left behind then."""
        self.service = service
        self.host = host
        self.closed = False
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop's
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="deploykit-pipeline", daemon=True)
        self._thread.start()
        try:
            host.wait()
            self.ready = self.call(self._connect()).result()
        except BaseException:
            self.close()
            raise
        self._places = asyncio.Semaphore(self.ready.credits)

    @property
    def client(self) -> EngineClient:
        return self.service.client

    def call(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def check(self) -> None:
        """Raises where this pipe can't be asked any more."""
        if self._pid != os.getpid():
            raise GenerationError(
                "closed",
                "this pipe belongs to the process that this one was forked from",
                fix="make a pipe in this process, or start the process with the spawn method",
            )
        if self.closed:
            raise GenerationError("closed", "this pipe is closed")
        if self.host.failure is not None:
            raise self.host.failure

    def start(self, job: Job, on_delta: OnDelta, on_end: OnEnd) -> Callable[[], None]:
        """Begin a job from any thread; the function that ends it early.

        `on_delta` and `on_end` (once, last, with what went wrong) run in the loop's thread.
        """
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            task = self.loop.create_task(self._work(job, on_delta))
            tasks.append(task)
            self._tasks.add(task)
            task.add_done_callback(ended)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled() and self.closed:
                on_end(GenerationError("closed", "the pipe was closed while it answered"))
            elif task.cancelled():
                on_end(GenerationError("cancelled", "the call was cancelled"))
            else:
                on_end(None if (error := task.exception()) is None else _explain(error))

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        with self._lock:  # what is begun here, the loop sees before the order to close
            self.check()
            self.loop.call_soon_threadsafe(begin)
        return lambda: self._soon(cancel)

    def close(self) -> None:
        """End the engine, the loop and both threads; what runs ends with the error `closed`."""
        if self._pid != os.getpid():
            return  # a forked child has neither
        with self._lock:
            if self.closed:
                return
            self.closed = True
        if threading.current_thread() in (self._thread, self.host.thread):
            # Garbage is collected in any thread, and these two can't wait for themselves.
            threading.Thread(target=self._close, name="deploykit-close").start()
        else:
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(TimeoutError, DeploykitError):
            self.call(self._disconnect()).result(_CLOSE_S)
        self.host.close()
        self._soon(self.loop.stop)
        self._thread.join(_CLOSE_S)

    # ------------------------------------------------------------ the loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def _soon(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing left to do
            self.loop.call_soon_threadsafe(function)

    async def _connect(self) -> Any:
        await self.client.start()
        return await self._engine()

    async def _engine(self) -> Any:
        """The engine's Ready, when it is there (again). Raises DeploykitError where it won't be."""
        while True:
            if self.host.failure is not None:
                raise self.host.failure
            try:
                return await self.client.wait_ready(_POLL_S)
            except TimeoutError:
                continue

    async def _disconnect(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.close()

    async def _work(self, job: Job, on_delta: OnDelta) -> None:
        async with self._places:
            await self._engine()
            generation = Generation(job, self.client, self.service.tokenizer, self.service.metrics)
            async with contextlib.aclosing(generation.deltas()) as deltas:
                async for delta in deltas:
                    on_delta(generation, delta)


def _explain(error: BaseException) -> GenerationError:
    if isinstance(error, GenerationError):
        return error
    if isinstance(error, ApiError):
        return failure(error)
    if isinstance(error, EngineUnavailable):
        return GenerationError(error.code, str(error), fix="ask again: the engine is started anew by itself")
    if isinstance(error, RequestFailed):
        if error.code == "internal":
            return GenerationError("internal", f"the engine gave up on this prompt: {error.reason}")
        return failure(from_engine(error.code, error.reason, "", 1.0))
    if isinstance(error, DeploykitError):
        return GenerationError("engine_failed", error.what, where=error.where, fix=error.fix)
    log.error("a request failed in the pipe", exc_info=error)
    return GenerationError("internal", f"this is a bug in deploykit: {type(error).__name__}: {error}")
