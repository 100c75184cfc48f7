"""Server-sent events, cut from a byte stream."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_EVENT = 16 << 20  # bytes; a longer event is no answer of a language model

_LINE_END = re.compile(rb"\r\n|\n|\r")


class SSEError(ValueError):
    """The stream is no event stream."""


@dataclass(frozen=True)
class Event:
    data: str
    event: str = "message"


class SSEParser:
    """Feed bytes, get the events that are whole. Chunks may end anywhere, also within a CRLF."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._first = True

    def feed(self, chunk: bytes) -> list[Event]:
        self._buffer += chunk
        if self._first and len(self._buffer) >= 3:
            self._first = False
            if self._buffer.startswith(b"\xef\xbb\xbf"):  # a byte order mark before the first line
                del self._buffer[:3]
        events: list[Event] = []
        start = 0
        while match := _LINE_END.search(self._buffer, start):
            if match[0] == b"\r" and match.end() == len(self._buffer):
                break  # the LF of a CRLF may still come
            line = bytes(self._buffer[start : match.start()])
            start = match.end()
            if event := self._line(line):
                events.append(event)
        del self._buffer[:start]
        if len(self._buffer) + self._size > MAX_EVENT:
            raise SSEError(f"an event of more than {MAX_EVENT} bytes")
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            data, name = self._data, self._event
            self._data, self._event, self._size = [], "", 0
            return Event("\n".join(data), name or "message") if data else None
        try:
            field, _, value = line.decode("utf-8").partition(":")
        except UnicodeDecodeError as error:
            raise SSEError("an event stream that is not UTF-8") from error
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._size += len(line)
        elif field == "event":
            self._event = value
        return None  # comments, ids and retry times carry nothing for a single answer
