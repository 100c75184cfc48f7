"""Files asked for in parts over several connections, and handed over in their order.

One connection to a hub's storage is often slower than the line. Parts that follow each other are asked for side by
side and written one after the other, so what is on the disk is always the beginning of a file: its length alone says
where to go on.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import msgspec

from deploykit.hub import http
from deploykit.hub.http import Client, Problem

CONNECTIONS = 8
MIN_PART = 1 << 20  # bytes; parts grow while they arrive within a second
MAX_PART = 8 << 20
_PROGRESS = 1 << 16  # bytes that make a try count as progress
_SLOW_S = 30.0  # a connection that brings less than _PROGRESS in this time is given up
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class Source(msgspec.Struct, frozen=True):
    """A file to be fetched from `start` on."""

    name: str
    url: str
    size: int  # bytes
    start: int = 0


class Part(msgspec.Struct, frozen=True):
    file: int  # index into the sources
    start: int
    stop: int


class RangeIgnored(Exception):
    """The hub sends the whole file, whatever part of it is asked for."""


class Parts:
    """The parts of `sources` in order, as `(file, start, bytes)`; closing it ends every transfer."""

    def __init__(self, client: Client, sources: Sequence[Source]) -> None:
        self._client = client
        self._sources = sources
        self._stop = threading.Event()
        self._located: dict[str, str] = {}
        self._part_bytes = MIN_PART
        self._whole: set[int] = set()
        self._tasks: queue.SimpleQueue[tuple[Part, Future[bytearray]] | None] = queue.SimpleQueue()
        self._arrived = dict.fromkeys(range(CONNECTIONS), 0)  # bytes of the parts under way, by worker
        for worker in range(CONNECTIONS):
            threading.Thread(target=self._work, args=(worker,), daemon=True, name="fetch-part").start()

    def close(self) -> None:
        self._stop.set()
        for _ in range(CONNECTIONS):
            self._tasks.put(None)
        self._client.close()

    @property
    def in_flight(self) -> int:
        """Bytes that have arrived and aren't handed over yet."""
        return sum(self._arrived.values())

    def take_whole(self, file: int) -> None:
        """Leave out the parts of a file that is fetched as a whole instead."""
        self._whole.add(file)

    def __iter__(self) -> Iterator[tuple[Part, Future[bytearray]]]:
        """Parts in order with their bytes to come; `result()` raises Problem or RangeIgnored."""
        waiting: deque[tuple[Part, Future[bytearray]]] = deque()
        plan = self._plan()
        while True:
            while len(waiting) < CONNECTIONS + 2 and (part := next(plan, None)) is not None:
                task = part, Future[bytearray]()
                self._tasks.put(task)
                waiting.append(task)
            if not waiting:
                return
            part, future = waiting.popleft()
            if part.file not in self._whole:
                yield part, future

    def _plan(self) -> Iterator[Part]:
        for index, source in enumerate(self._sources):
            at = source.start
            while at < source.size and index not in self._whole:
                stop = min(source.size, at + self._part_bytes)
                yield Part(index, at, stop)
                at = stop

    def _work(self, worker: int) -> None:
        while (task := self._tasks.get()) is not None and not self._stop.is_set():
            part, future = task
            if part.file in self._whole:
                continue
            try:
                began = time.monotonic()
                future.set_result(self._fetch(part, worker))
                took = time.monotonic() - began
                if took < 1:
                    self._part_bytes = min(MAX_PART, self._part_bytes * 2)
                elif took > 4:
                    self._part_bytes = max(MIN_PART, self._part_bytes // 2)
            except Exception as error:
                future.set_exception(error)
            finally:
                self._arrived[worker] = 0

    def _fetch(self, part: Part, worker: int) -> bytearray:
        got = bytearray()
        attempt = 0
        while True:
            before = len(got)
            try:
                self._receive(part, got, worker)
                return got
            except Problem as problem:
                # An address that storage gave out for some minutes: ask the hub for another one.
                moved = self._located.pop(self._sources[part.file].url, None) is not None
                attempt = 1 if len(got) - before >= _PROGRESS else attempt + 1
                expired = moved and problem.status is not None and problem.status not in http.BUSY
                if self._stop.is_set() or attempt >= http.TRIES or not (problem.again or expired):
                    raise
                if not expired:
                    http.pause(attempt, problem, self._stop.wait)

    def _receive(self, part: Part, got: bytearray, worker: int) -> None:
        """Appends to `got` what is missing of the part."""
        source = self._sources[part.file]
        start = part.start + len(got)
        whole = start == 0 and part.stop == source.size
        headers = {} if whole else {"Range": f"bytes={start}-{part.stop - 1}"}
        with self._client.open(source.url, headers, located=self._located) as response:
            if response.status_code == 206:
                check_range(response.headers.get("content-range", ""), start, part.stop, source.size)
            elif not whole:
                raise RangeIgnored
            elif (length := response.headers.get("content-length")) is not None and length != str(
                source.size
            ):
                raise Problem(f"it sends {length[:20]} bytes instead of {source.size}")
            began = time.monotonic()
            for piece in response.iter_raw():
                if self._stop.is_set():
                    raise Problem("ended")
                if len(got) + len(piece) > part.stop - part.start:
                    raise Problem(f"it sends more than the {part.stop - start} bytes that were asked for")
                got += piece
                self._arrived[worker] = len(got)
                if time.monotonic() - began > _SLOW_S:
                    if start + _PROGRESS > part.start + len(got):
                        raise Problem("next to nothing arrives", again=True)
                    began, start = time.monotonic(), part.start + len(got)
        if len(got) < part.stop - part.start:
            raise Problem(
                f"the connection ended after {part.start + len(got)} of {source.size} bytes", again=True
            )


def check_range(value: str, start: int, stop: int, size: int) -> None:
    """Raises Problem when a partial answer isn't the part that was asked for."""
    match = _CONTENT_RANGE.fullmatch(value)
    if match is None or (int(match[1]), int(match[2])) != (start, stop - 1):
        raise Problem(f"it sends another part than bytes {start} to {stop - 1}")
    if match[3] not in ("*", str(size)):
        raise Problem(f"it has {match[3]} bytes instead of {size}")


def stream(client: Client, source: Source) -> Iterator[bytes]:
    """The whole file over one connection from its first byte, for a hub that knows no ranges."""
    done = 0
    with client.open(source.url) as response:
        for piece in response.iter_raw():
            done += len(piece)
            if done > source.size:
                raise Problem(f"it sends more than the {source.size} bytes that it announced")
            yield piece
    if done < source.size:
        raise Problem(f"the connection ended after {done} of {source.size} bytes", again=True)
