"""The deployment's log: what its processes wrote, bounded to two files, and ways to read it."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 10 << 20  # a file; the one before it is kept beside it as `log.1`
_TAIL_CHUNK = 64 << 10


class BoundedLog:
    """Lines as `TIME source | text`. A disk that is full costs log lines, never the deployment."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file = -1
        self._size = 0
        self._rotate()  # every run begins with an empty log and keeps the last run's

    def write(self, source: str, line: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime())
        data = f"{stamp} {source:<10} | {line}\n".encode(errors="replace")
        if self._size + len(data) > self._max_bytes:
            self._rotate()
        with contextlib.suppress(OSError):
            self._size += os.write(self._file, data)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _rotate(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            if self._path.exists():
                os.replace(self._path, previous_of(self._path))
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0


def previous_of(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def tail(path: Path, count: int) -> list[str]:
    """The last `count` lines; empty when there is no log."""
    if count <= 0:
        return []
    try:
        with open(path, "rb") as f:
            position = f.seek(0, os.SEEK_END)
            data = b""
            while position > 0 and data.count(b"\n") <= count:
                step = min(_TAIL_CHUNK, position)
                position -= step
                f.seek(position)
                data = f.read(step) + data
    except OSError:
        return []
    return data.decode(errors="replace").splitlines()[-count:]


def _rotated(path: Path, file: BinaryIO) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def follow(path: Path, count: int, running: Callable[[], bool], *, interval: float = 0.2) -> Iterator[str]:
    """The last `count` lines, then every new one while `running()`; a rotated log is followed over the seam."""
    file = None
    try:
        file = open(path, "rb")  # noqa: SIM115
        recent: deque[bytes] = deque(maxlen=max(count, 0))
        pending = b""
        for line in file:
            pending = b"" if line.endswith(b"\n") else line
            if not pending:
                recent.append(line)
        for line in recent:
            yield line.decode(errors="replace").rstrip("\n")
        while True:
            alive = running()  # asked before reading: what was written before the end is still shown
            rotated = _rotated(path, file)  # asked before reading too: the old file is complete by then
            while chunk := file.read(_TAIL_CHUNK):
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            if rotated:
                file.close()
                file = open(path, "rb")  # noqa: SIM115
            elif not alive:
                return
            else:
                time.sleep(interval)
    except FileNotFoundError:
        return
    finally:
        if file is not None:
            file.close()
