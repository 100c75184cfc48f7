"""One streamed completion over a raw connection, with the time of every piece of text: asyncio and h11."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

from deploykit.chat.sse import SSEParser

READ_SIZE = 1 << 16


class HttpFailed(Exception):
    """The request has no whole answer; the text is short enough to count by."""


@dataclass
class Timing:
    """Times are `time.perf_counter()` seconds."""

    started: float
    pieces: list[float] = field(default_factory=list)  # arrival of each piece of text
    ended: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0


async def complete(base: str, api_key: str | None, body: dict[str, Any], timeout: float) -> Timing:
    """POST /completions as a stream. Raises HttpFailed."""
    timing = Timing(time.perf_counter())
    try:
        async with asyncio.timeout(timeout):
            await _complete(base, api_key, body, timing)
    except TimeoutError:
        raise HttpFailed(f"no answer within {timeout:.0f} s") from None
    except (OSError, h11.RemoteProtocolError, ValueError) as error:
        raise HttpFailed(f"{type(error).__name__}: {error}") from None
    timing.ended = time.perf_counter()
    return timing


async def _complete(base: str, api_key: str | None, body: dict[str, Any], timing: Timing) -> None:
    parts = urlsplit(base)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
    try:
        data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
        headers = [
            ("Host", parts.netloc),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(data))),
            ("Connection", "close"),
        ]
        if api_key:
            headers.append(("Authorization", f"Bearer {api_key}"))
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(method="POST", target=parts.path + "/completions", headers=headers)
        for event in (request, h11.Data(data=data), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        await writer.drain()
        await _read(reader, connection, timing)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, connection: h11.Connection, timing: Timing) -> None:
    parser, status, error = SSEParser(), 0, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_SIZE))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            if status != 200:
                error += bytes(event.data)[:READ_SIZE]
                continue
            now = time.perf_counter()
            for message in parser.feed(bytes(event.data)):
                if message.data == "[DONE]":
                    return
                _note(json.loads(message.data), timing, now)
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            if status != 200:
                raise HttpFailed(f"status {status}: {_message(error)}")
            raise HttpFailed("the answer ended before it was whole")


def _note(chunk: dict[str, Any], timing: Timing, now: float) -> None:
    if "error" in chunk:
        raise HttpFailed(f"error event: {_message(json.dumps(chunk).encode())}")
    if any(choice.get("text") for choice in chunk.get("choices") or ()):
        timing.pieces.append(now)
    if usage := chunk.get("usage"):
        timing.prompt_tokens = int(usage.get("prompt_tokens") or 0)
        timing.output_tokens = int(usage.get("completion_tokens") or 0)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
