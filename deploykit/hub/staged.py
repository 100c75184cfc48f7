"""One file of a staging folder: `NAME.partial` while it grows, `NAME` when it is whole, checked and on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from deploykit.errors import EXIT_NO_FIT, DeploykitError
from deploykit.hub.disk import DISK_FULL, free_bytes, size_text
from deploykit.hub.staging import mismatch, sync_folder
from deploykit.hub.types import PinnedFile

PARTIAL = ".partial"
_CHUNK = 1 << 20


class StagedFile:
    """The beginning of a file is always right: what is asked for next starts at its length."""

    def __init__(self, file: PinnedFile, stage: Path) -> None:
        if file.size is None:
            raise DeploykitError(f"the hub doesn't tell the size of {file.name}", fix="try another source")
        self.file = file
        self.size = file.size
        self.path = stage / file.name
        self.partial = stage / (file.name + PARTIAL)
        self.finished = False
        self.resumed = False  # some of it is from an earlier try
        self._sum = _Sum(file, self.size)
        self._out: IO[bytes] | None = None

    def whole(self) -> PinnedFile | None:
        """The file that an earlier try completed, if it is still what is asked for."""
        if not self.path.is_file():
            return None
        self._sum = _Sum(self.file, self.size)
        if self.path.stat().st_size == self.size:
            self._sum.add_file(self.path)
            if self._sum.wrong() is None:
                return self._checked()
        self.path.unlink()
        return None

    def resume(self) -> int:
        """Where to go on."""
        try:
            start = self.partial.stat().st_size
        except FileNotFoundError:
            return 0
        if start > self.size:
            self.partial.unlink()
            return 0
        self.resumed = start > 0
        return start

    def restart(self) -> int:
        """Empty the partial file; how many bytes it had."""
        with self._disk():
            out = self._opened()
            had = out.tell()
            out.truncate(0)
            out.seek(0)
        self._sum = _Sum(self.file, self.size)
        self.resumed = False
        return had

    def write(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        with self._disk():
            out = self._opened()
            while view:
                written = out.write(view)
                self._sum.add(view[:written])
                view = view[written:]

    def finish(self) -> PinnedFile:
        """Check the sum, flush and rename. A file with another sum is removed, so that the next try fetches it anew."""
        with self._disk():
            out = self._opened()
            if (got := self._sum.wrong()) is not None:
                self.close()
                self.partial.unlink()
                raise mismatch(self.file.name, self.file.sha256 or f"git's {self.file.git_sha1}", got)
            os.fsync(out.fileno())
            self.close()
            os.replace(self.partial, self.path)
            sync_folder(self.path.parent)
        self.finished = True
        return self._checked()

    def close(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None

    def _opened(self) -> IO[bytes]:
        if self._out is None:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self._sum = _Sum(self.file, self.size)
            with contextlib.suppress(FileNotFoundError):
                self._sum.add_file(self.partial)
            self._out = open(self.partial, "ab", buffering=0)  # noqa: SIM115 - closed by `close`
        return self._out

    def _checked(self) -> PinnedFile:
        return PinnedFile(self.file.name, self.size, self._sum.sha256.hexdigest(), self.file.git_sha1)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise disk_error(e, self.file.name, self.partial, self.size) from e


class _Sum:
    """The sums of a file while it grows: sha256 always, git's sha1 where the hub gives no other."""

    def __init__(self, file: PinnedFile, size: int) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        needs_git = file.sha256 is None and file.git_sha1 is not None
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if needs_git else None

    def add(self, data: bytes | memoryview) -> None:
        self.sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    def add_file(self, path: Path) -> None:
        with open(path, "rb") as f:
            while chunk := f.read(_CHUNK):
                self.add(chunk)

    def wrong(self) -> str | None:
        """The sum that the file has where it isn't the one that the hub gave."""
        if self._git is not None:
            got, wanted = self._git.hexdigest(), self._file.git_sha1
            return None if got == wanted else f"git's {got}"
        got, wanted = self.sha256.hexdigest(), self._file.sha256
        return None if wanted is None or got == wanted else got


def disk_error(error: OSError, name: str, partial: Path, size: int) -> DeploykitError:
    """What a full or broken disk means for the file that was being written."""
    if error.errno not in DISK_FULL:
        fix = "check the disk, or set DEPLOYKIT_CACHE to another folder"
        return DeploykitError(f"{name} can't be written", where=str(partial.parent), why=str(error), fix=fix)
    have, free = 0, 0
    with contextlib.suppress(OSError):
        have = partial.stat().st_size
    with contextlib.suppress(OSError):
        free = free_bytes(partial.parent)
    return DeploykitError(
        f"the disk is full: {name} can't be written",
        where=str(partial.parent),
        why=f"{error.strerror}: {size_text(size - have)} of its {size_text(size)} are missing, "
        f"{size_text(free)} are free",
        fix="free some space and run it again: it goes on from here; or set DEPLOYKIT_CACHE to a larger disk",
        exit_code=EXIT_NO_FIT,
    )
