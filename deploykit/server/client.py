"""EngineClient: the front's end of the engine's socket. Connects again after a restart; what ran then has failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

import msgspec

from deploykit.engine.protocol import (
    PROTOCOL_VERSION,
    Abort,
    Failed,
    Heartbeat,
    Hello,
    Output,
    Ready,
    StepOutputs,
    Submit,
    decode_to_front,
)
from deploykit.engine.transport import FrameBuffer, ProtocolError, frame

log = logging.getLogger("deploykit.server.client")

RECONNECT_FIRST, RECONNECT_MOST = 0.02, 0.5  # seconds between attempts
HEARTBEAT_LIMIT = 10.0  # seconds without any message after which the engine counts as stuck
MAX_UNREAD = 16384  # outputs that wait for one reader
READ_SIZE = 1 << 18

Phase = Literal["connecting", "loading", "ready", "closed"]


class EngineUnavailable(Exception):
    """The engine can't be asked, or was lost while it answered. `code`: engine_starting | engine_restarted."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EngineBusy(Exception):
    """As many requests are unfinished as the engine takes."""


class RequestFailed(Exception):
    """The engine ended this request with an error; `code` is that of `Failed`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass
class EngineState:
    """What is known of the engine now."""

    phase: Phase = "connecting"
    ready: Ready | None = None  # of the present connection
    heartbeat: Heartbeat | None = None  # the last one, of whichever engine process
    last_message: float = 0.0  # time.monotonic()
    connections: int = 0  # engine processes that have been ready

    @property
    def stuck(self) -> bool:
        return self.phase == "ready" and time.monotonic() - self.last_message > HEARTBEAT_LIMIT

    @property
    def restarts(self) -> int:
        return max(0, self.connections - 1)


class _Pending:
    """The outputs of one request that its reader hasn't taken yet."""

    __slots__ = ("error", "items", "left", "wake")

    def __init__(self, sequences: int) -> None:
        self.items: deque[Output] = deque()
        self.error: Exception | None = None
        self.left = sequences  # unfinished ones
        self.wake: asyncio.Future[None] | None = None

    def notify(self) -> None:
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)

    async def wait(self) -> None:
        self.wake = asyncio.get_running_loop().create_future()
        try:
            await self.wake
        finally:
            self.wake = None


class EngineClient:
    """Used from one event loop. `start()` begins to connect and returns at once; `state` says how far it is."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.state = EngineState()
        self._pending: dict[str, _Pending] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._finished_at: deque[float] = deque(maxlen=32)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="engine-client")

    async def close(self) -> None:
        self.state.phase = "closed"
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._fail_all("engine_restarted", "The connection to the engine was closed.")

    async def wait_ready(self, timeout: float | None = None) -> Ready:
        """The engine's `Ready`, when it has loaded. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while (ready := self.state.ready) is None:
                self._changed.clear()
                await self._changed.wait()
            return ready

    # ------------------------------------------------------------ requests

    @property
    def unfinished(self) -> int:
        return len(self._pending)

    def check(self, requests: int = 1) -> Ready:
        """Whether that many more requests may come now. Raises EngineUnavailable or EngineBusy."""
        ready = self.state.ready
        if ready is None or self._writer is None:
            restarted = self.state.connections > 0
            code = "engine_restarted" if restarted else "engine_starting"
            raise EngineUnavailable(
                code, "The engine is restarting." if restarted else "The engine is starting."
            )
        if len(self._pending) + requests > ready.credits:
            raise EngineBusy
        return ready

    def retry_after(self) -> float:
        """Seconds until a place should be free: what the last requests took to leave, over as many as wait."""
        if len(self._finished_at) < 2:
            return 1.0
        rate = (len(self._finished_at) - 1) / max(1e-3, self._finished_at[-1] - self._finished_at[0])
        heartbeat = self.state.heartbeat
        waiting = heartbeat.waiting if heartbeat is not None else 0
        return min(60.0, max(1.0, (1 + waiting / 2) / rate))

    async def generate(self, submit: Submit) -> AsyncGenerator[Output, None]:
        """The outputs of a request, until all its sequences have finished. Leaving the iteration aborts it.

        Close the iterator (`contextlib.aclosing`) where it may not run to its end. Raises EngineUnavailable,
        EngineBusy, RequestFailed.
        """
        self.check()
        writer = self._writer
        if writer is None:  # check() has refused that
            raise EngineUnavailable("engine_starting", "The engine is starting.")
        if submit.id in self._pending:
            raise ValueError(f"request id {submit.id!r} is in use")
        data = frame(submit)
        pending = self._pending[submit.id] = _Pending(submit.n)
        try:
            writer.write(data)
            with contextlib.suppress(ConnectionError):  # the reading side notices, and fails the request
                await writer.drain()
            while True:
                while pending.items:
                    yield pending.items.popleft()
                if pending.error is not None:
                    raise pending.error
                if pending.left <= 0:
                    return
                await pending.wait()
        finally:
            self.abort(submit.id)

    def abort(self, request_id: str) -> None:
        """Forget a request and tell the engine if it still works on it. Does nothing for one that is over."""
        pending = self._pending.pop(request_id, None)
        if pending is None:
            return
        self._finished_at.append(time.monotonic())
        if pending.left > 0 and pending.error is None and self._writer is not None:
            self._writer.write(frame(Abort(id=request_id)))

    # ------------------------------------------------------------ the connection

    async def _run(self) -> None:
        delay = RECONNECT_FIRST
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self.socket_path, limit=READ_SIZE)
            except OSError:
                await asyncio.sleep(delay)
                delay = min(delay * 1.5, RECONNECT_MOST)
                continue
            delay = RECONNECT_FIRST
            self._writer = writer
            self.state.phase = "loading"
            try:
                writer.write(frame(Hello(version=PROTOCOL_VERSION)))
                await self._read(reader)
                log.warning("the engine closed the connection")
            except (OSError, ProtocolError, msgspec.DecodeError, msgspec.ValidationError) as error:
                log.warning("the connection to the engine broke: %s", error)
            finally:
                self._writer = None
                self.state.ready = None
                self._set_phase("connecting")
                writer.close()
                self._fail_all("engine_restarted", "The engine was restarted while it answered.")
            await asyncio.sleep(delay)

    def _set_phase(self, phase: Phase) -> None:
        if self.state.phase != "closed":
            self.state.phase = phase

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = FrameBuffer()
        while data := await reader.read(READ_SIZE):
            self.state.last_message = time.monotonic()
            for body in frames.feed(data):
                self._take(decode_to_front(body))

    def _take(self, message: Ready | StepOutputs | Failed | Heartbeat) -> None:
        if isinstance(message, StepOutputs):
            for output in message.outputs:
                self._deliver(output)
        elif isinstance(message, Heartbeat):
            self.state.heartbeat = message
        elif isinstance(message, Failed):
            self._fail(message.id, RequestFailed(message.code, message.reason))
        else:
            if message.version != PROTOCOL_VERSION:
                raise ProtocolError(f"the engine speaks version {message.version}, not {PROTOCOL_VERSION}")
            self.state.ready = message
            self.state.phase = "ready"
            self.state.connections += 1
            self._changed.set()

    def _deliver(self, output: Output) -> None:
        pending = self._pending.get(output.id)
        if pending is None or pending.error is not None:
            return  # aborted: the engine hadn't heard yet
        pending.items.append(output)
        if output.finish is not None:
            pending.left -= 1
        elif len(pending.items) > MAX_UNREAD:
            pending.items.clear()
            self._send_abort(output.id)
            pending.error = RequestFailed("slow_client", "the client reads too slowly")
        pending.notify()

    def _send_abort(self, request_id: str) -> None:
        if self._writer is not None:
            self._writer.write(frame(Abort(id=request_id)))

    def _fail(self, request_id: str, error: Exception) -> None:
        pending = self._pending.get(request_id)
        if pending is not None and pending.error is None:
            pending.error = error
            pending.notify()

    def _fail_all(self, code: str, message: str) -> None:
        for request_id in list(self._pending):
            self._fail(request_id, EngineUnavailable(code, message))
