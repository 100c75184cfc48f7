"""One HTTP request on its way through a route: read the body, send JSON or a stream of events."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from deploykit.server.errors import ApiError

encode_json = msgspec.json.Encoder().encode

Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


@dataclass
class Call:
    """`notes` go into the request's log line; they never hold a prompt or an answer."""

    scope: Scope
    receive: Receive
    send: Send
    request_id: str
    arrived: float = field(default_factory=time.monotonic)
    notes: dict[str, Any] = field(default_factory=dict)

    async def body(self, timeout: float) -> bytes:
        """The whole body. Raises ApiError (408) or ClientGone."""
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(timeout):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    parts.append(message.get("body", b""))
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408, f"The body didn't arrive within {timeout:g} s.", code="body_timeout"
            ) from None

    async def disconnected(self) -> None:
        """Returns when the client has gone away. Call it after the body was read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def json(self, value: Any, status: int = 200) -> None:
        await send_bytes(self.send, status, encode_json(value), b"application/json")


async def send_bytes(
    send: Send, status: int, body: bytes, content_type: bytes, headers: Headers | None = None
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", str(len(body)).encode()),
                *(headers or []),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ApiError) -> None:
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send_bytes(send, error.status, encode_json(error.body), b"application/json", headers)


class EventStream:
    """Server-sent events. The response starts with the first of them, or when the client has waited for long."""

    _HEADERS: Headers = [  # noqa: RUF012
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # a proxy shall pass every event on at once
    ]

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self._last = time.monotonic()

    async def events(self, values: list[dict[str, Any]]) -> None:
        if values:
            await self._write(b"".join(b"data: " + encode_json(value) + b"\n\n" for value in values))

    async def finish(self, *, done: bool) -> None:
        """End the response; with `[DONE]` only where the answer is whole."""
        await self._write(b"data: [DONE]\n\n" if done else b"", more=False)

    async def keep_alive(self, after: float) -> None:
        """For ever: a comment line whenever nothing was sent for `after` seconds, so that no proxy gives up."""
        while True:
            await asyncio.sleep(max(0.1, self._last + after - time.monotonic()))
            if time.monotonic() - self._last >= after:
                await self._write(b": waiting\n\n")

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        self._last = time.monotonic()
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._HEADERS})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
