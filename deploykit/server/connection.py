"""The HTTP connection: uvicorn's, with the timers and the bound that it doesn't have.

An ASGI application only hears of a request once its header is whole, so slow and idle sockets are ended here.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from deploykit.server.call import encode_json, send_error
from deploykit.server.errors import ApiError
from deploykit.server.spec import Limits

_GRACE = 1.0  # seconds for the application to answer 408 itself, and for a refused client to read why


def connection_class(limits: Limits) -> type[H11Protocol]:
    """A protocol class for `uvicorn.Config(http=…)` under these limits."""

    class LimitedConnection(GuardedConnection):
        pass

    LimitedConnection.limits = limits
    return LimitedConnection


class GuardedConnection(H11Protocol):
    """Ends a connection whose header, body or reading of the answer takes too long, and refuses too many of them.

    Idle time between requests is uvicorn's own `timeout_keep_alive`.
    """

    limits: Limits

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_for = ""
        self._stall: asyncio.TimerHandle | None = None
        self._refused = False

    # ------------------------------------------------------------ what uvicorn calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        open_now = len(self.connections)
        if open_now > 2 * self.limits.max_connections:
            transport.abort()
            return
        if open_now > self.limits.max_connections:
            self.app = _too_many
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # what still comes is read and dropped: closing at once could lose the answer on its way
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self.limits.idle_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, msg, code="invalid_http"))

    # ------------------------------------------------------------ timers

    def _watch(self) -> None:
        """Run the timer for what is awaited of the client now: a header, a body, or nothing."""
        if self._refused:
            return
        if self.transport.is_closing():
            self._stop_timer()
            return
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._wait_for("body", self.limits.body_timeout + _GRACE)
        elif state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._wait_for("header", self.limits.header_timeout)
        else:
            self._stop_timer()

    def _wait_for(self, what: str, seconds: float) -> None:
        if self._waiting_for != what:
            self._stop_timer()
            self._waiting_for = what
            self._timer = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self.transport.is_closing():
            return
        started = bool(self.conn.trailing_data[0])
        if self._waiting_for == "header" and started and self.conn.our_state is h11.IDLE:
            self._refuse(ApiError(408, "The request's header took too long.", code="header_timeout"))
        else:
            self.transport.abort()

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application, and close."""
        if self.transport.is_closing():
            return
        try:
            body = encode_json(error.body)
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            events = (
                h11.Response(status_code=error.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            for event in events:
                if data := self.conn.send(event):
                    self.transport.write(data)
        except h11.LocalProtocolError:
            self.transport.close()  # an answer is already under way
            return
        self._refused = True
        self._stop_timer()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(_GRACE, self.transport.abort)

    def _stop_timer(self) -> None:
        self._waiting_for = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


async def _too_many(scope: Any, receive: Any, send: Any) -> None:
    error = ApiError(503, "Too many connections.", code="too_many_connections", retry_after=1)
    error.headers["connection"] = "close"
    await send_error(send, error)
