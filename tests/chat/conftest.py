"""A small OpenAI-compatible server that answers by what it is asked, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from stub_server import StubServer

EVIL = "safe\x1b]0;owned\x07 text\x1b[31m red\x1b[0m\x9b2J end\r\x08"


class ChatStub(StubServer):
    """Behaviour by the last message: `slow` streams for ever, `fail` sends an error event, `cut` closes in the
    middle, `evil` sends escape sequences one character at a time, `refuse` answers 429; else an echo."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.hung_up = threading.Event()
        super().__init__()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.split("\r\n")
            headers = {k.lower(): v for k, v in (h.split(": ", 1) for h in rest if h)}
            self.headers.append(headers)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if line.startswith("GET /v1/models "):
                self._json(writer, 200, {"data": [{"id": "stub-model"}, {"id": "other"}]})
            elif line.startswith("POST /v1/chat/completions "):
                self.requests.append(json.loads(body))
                await self._chat(writer, self.requests[-1])
            else:
                self._json(writer, 404, {"error": {"message": f"no route {line}"}})
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        finally:
            writer.close()

    async def _chat(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        text = body["messages"][-1]["content"]
        if text == "refuse":
            self._json(writer, 429, {"error": {"message": "the queue\x1b[31m is full"}}, "Retry-After: 3\r\n")
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        if text == "slow":
            while True:
                self._event(writer, {"choices": [{"delta": {"content": "tick "}}]})
                await writer.drain()
                await asyncio.sleep(0.02)
        pieces = list(EVIL) if text == "evil" else ["you said: ", text]
        for piece in pieces:
            self._event(writer, {"model": "stub-model", "choices": [{"delta": {"content": piece}}]})
        if text == "fail":
            self._event(writer, {"error": {"message": "the engine was restarted"}})
            return
        if text == "cut":
            return
        self._event(writer, {"choices": [{"delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 12, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}
        self._event(writer, {"choices": [], "usage": usage})
        writer.write(b"data: [DONE]\n\n")

    def _event(self, writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
        writer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _json(self, writer: asyncio.StreamWriter, status: int, body: object, extra: str = "") -> None:
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{extra}"
        writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)


@pytest.fixture
def stub() -> Iterator[ChatStub]:
    server = ChatStub()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """No test sees the deployments or the history of the person who runs it."""
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("DEPLOYKIT_API_KEY", raising=False)
