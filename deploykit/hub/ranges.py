"""A file of a hub as something to read from its beginning on: each read is a request for those bytes and no others."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from deploykit.hub import http
from deploykit.hub.http import Client, Problem
from deploykit.hub.parts import RangeIgnored, check_range
from deploykit.hub.types import NoHeaders

_READ_S = 120.0  # for one piece, however slowly it comes


class Budget:
    """Bytes that all files of a model may take together; `fetched` counts what has come."""

    def __init__(self, limit: int, report: Callable[[int], None]) -> None:
        self._limit = limit
        self._report = report
        self._lock = threading.Lock()
        self.fetched = 0
        self.stopped = False

    def add(self, count: int) -> None:
        with self._lock:
            self.fetched += count
            if self.fetched > self._limit:
                raise NoHeaders(
                    "the headers of the model are too large",
                    why=f"more than {self._limit >> 20} MiB",
                    fix="add --fetch to download the model first",
                )
            self._report(self.fetched)


class Beginning(ABC):
    """A file read from its beginning on. `head` is what has been read of it; `size` is that of the whole file."""

    def __init__(self, size: int) -> None:
        self._at = 0
        self.size = size
        self.head = bytearray()

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset if whence == 0 else self.size + offset
        return self._at

    def read(self, count: int) -> bytes:
        """Bytes from where it stands: fewer than `count` only at the file's end, or where some are there already."""
        stop = min(self.size, self._at + count)
        if self._at >= len(self.head):
            if self._at != len(self.head):
                raise ValueError("a remote file is read from its beginning on")
            self._fetch(stop)
        data = bytes(self.head[self._at : stop])
        self._at += len(data)
        return data

    @abstractmethod
    def _fetch(self, stop: int) -> None:
        """Append to `head` until it has `stop` bytes."""


class RemoteFile(Beginning):
    """One file of a hub. Raises Problem, and RangeIgnored where the hub sends the whole file whatever is asked for:
    nothing of that body is read."""

    def __init__(self, client: Client, url: str, size: int, budget: Budget) -> None:
        super().__init__(size)
        self._client = client
        self._url = url
        self._budget = budget
        self._located: dict[str, str] = {}

    def _fetch(self, stop: int) -> None:
        attempt = 0
        while len(self.head) < stop:
            before = len(self.head)
            try:
                self._receive(stop)
            except Problem as problem:
                # An address that storage gave out for some minutes: ask the hub for another one.
                moved = self._located.pop(self._url, None) is not None
                attempt = 1 if len(self.head) > before else attempt + 1
                expired = moved and problem.status is not None and problem.status not in http.BUSY
                if self._budget.stopped or attempt >= http.TRIES or not (problem.again or expired):
                    raise
                if not expired:
                    http.pause(attempt, problem, time.sleep)

    def _receive(self, stop: int) -> None:
        start = len(self.head)
        whole = start == 0 and stop == self.size
        headers = {} if whole else {"Range": f"bytes={start}-{stop - 1}"}
        deadline = time.monotonic() + _READ_S
        with self._client.open(self._url, headers, located=self._located) as response:
            if response.status_code == 206:
                check_range(response.headers.get("content-range", ""), start, stop, self.size)
            elif not whole:
                raise RangeIgnored
            elif (length := response.headers.get("content-length")) not in (None, str(self.size)):
                raise Problem(f"it sends {length[:20]} bytes instead of {self.size}")
            for piece in response.iter_raw():
                if self._budget.stopped:
                    raise Problem("ended")
                if len(self.head) + len(piece) > stop:
                    raise Problem(f"it sends more than the {stop - start} bytes that were asked for")
                self.head += piece
                self._budget.add(len(piece))
                if time.monotonic() > deadline:
                    raise Problem("next to nothing arrives", again=True)
        if len(self.head) < stop:
            raise Problem(f"the connection ended after {len(self.head)} of {stop} bytes", again=True)
