"""The end of a front process: no new work, what runs goes on for a while, then it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from deploykit.server.errors import ApiError, draining


class Drain:
    """Counts the work that runs. `begin` refuses more; `wait` lets the rest finish or cuts it off."""

    def __init__(self) -> None:
        self.started = False
        self._running: set[asyncio.Event] = set()
        self._changed = asyncio.Event()

    def begin(self) -> None:
        self.started = True

    @property
    def running(self) -> int:
        return len(self._running)

    def check(self, retry_after: float = 5.0) -> None:
        """Raises ApiError (503) once the drain has begun."""
        if self.started:
            raise draining(retry_after)

    @contextlib.contextmanager
    def work(self) -> Iterator[asyncio.Event]:
        """One request's work; the event is set when it is cut off. Raises ApiError (503) while draining."""
        self.check()
        cut = asyncio.Event()
        self._running.add(cut)
        try:
            yield cut
        finally:
            self._running.discard(cut)
            self._changed.set()

    async def wait(self, timeout: float) -> bool:
        """Wait for what runs, at most `timeout` seconds, then cut it off; whether all of it finished by itself."""
        with contextlib.suppress(TimeoutError):
            await self._idle(timeout)
        if not self._running:
            return True
        for cut in self._running:
            cut.set()
        with contextlib.suppress(TimeoutError):
            await self._idle(2.0)
        return False

    async def _idle(self, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while self._running:
                self._changed.clear()
                await self._changed.wait()


CUT_OFF = ApiError(
    503, "The server was shut down before the answer was whole.", code="server_draining", retry_after=5
)
