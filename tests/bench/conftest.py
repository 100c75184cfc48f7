"""A completions server for load, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from stub_server import StubServer


class CompletionsStub(StubServer):
    """Streams `max_tokens` pieces for each completion; fails the requests whose number is in `failing`."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.failing: dict[int, str] = {}  # number -> status | event | cut
        self.at_once = self.most_at_once = 0
        super().__init__()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if head.startswith("GET /v1/models "):
                self._json(writer, 200, {"data": [{"id": "stub-model"}]})
                return
            length = next(h for h in head.lower().split("\r\n") if h.startswith("content-length:"))
            body = json.loads(await reader.readexactly(int(length.partition(":")[2])))
            self.requests.append(body)
            await self._complete(writer, body, self.failing.get(len(self.requests) - 1))
            await writer.drain()
        finally:
            self.at_once -= 1
            writer.close()

    async def _complete(
        self, writer: asyncio.StreamWriter, body: dict[str, Any], failure: str | None
    ) -> None:
        if failure == "status":
            self._json(writer, 503, {"error": {"message": "no engine"}})
            return
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
        writer.write(head + b"Connection: close\r\n\r\n")
        for i in range(body["max_tokens"]):
            if i == 1 and failure == "event":
                self._event(writer, {"error": {"message": "the engine was restarted"}})
            if i == 1 and failure == "cut":
                return
            self._event(writer, {"choices": [{"text": "a"}]})
            await writer.drain()
            await asyncio.sleep(0.001)
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        self._event(writer, {"choices": [], "usage": usage})
        self._chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    def _event(self, writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
        self._chunk(writer, b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _json(self, writer: asyncio.StreamWriter, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)


@pytest.fixture
def completions() -> Iterator[CompletionsStub]:
    server = CompletionsStub()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("DEPLOYKIT_API_KEY", raising=False)
