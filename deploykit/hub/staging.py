"""Files that become visible whole or not at all: staged, verified, flushed, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from deploykit.errors import DeploykitError
from deploykit.hub.types import FetchProgress, Report

_CHUNK = 1 << 20
_POLL_S = 0.2
_MAX_NAME = 180  # of 255 bytes, endings and temporary names aside


def copy_verified(source: IO[bytes], target: Path, *, size: int, sha256: str, report: Report) -> None:
    """Write exactly `size` bytes of `source` beside `target`, check their sha256, and rename."""
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    done = 0
    try:
        with open(partial, "wb") as out:
            while chunk := source.read(min(_CHUNK, size - done + 1)):
                done += len(chunk)
                if done > size:
                    break
                digest.update(chunk)
                out.write(chunk)
                report(FetchProgress(target.name, done, size))
            out.flush()
            os.fsync(out.fileno())
        if done != size or digest.hexdigest() != sha256:
            raise mismatch(
                target.name, sha256, digest.hexdigest() if done == size else f"another length than {size}"
            )
        os.replace(partial, target)
        sync_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


class Mismatch(DeploykitError):
    """A file that has another sum than its source says."""


def mismatch(name: str, wanted: str, got: str) -> Mismatch:
    return Mismatch(
        f"{name} isn't the file that was asked for",
        why=f"its sha256 should be {wanted}, it is {got}",
        fix="fetch it again; if it stays so, the source was changed: don't use it",
    )


def sha256_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def short_name(text: str) -> str:
    """A name for one file of the cache: as it is, or cut with a sum of the whole where file systems refuse it."""
    if len(text.encode()) <= _MAX_NAME:
        return text
    return f"{text[: _MAX_NAME - 33]}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards, whatever happens; what a killed process left in it goes first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118
    return total


@contextlib.contextmanager
def watch_growth(folder: Path, name: str, total: Callable[[], int | None], report: Report) -> Iterator[None]:
    """Report how many bytes `folder` holds, from a thread, while something else writes into it."""
    stop = threading.Event()

    def watch() -> None:
        seen = -1
        while not stop.wait(_POLL_S):
            done, expected = folder_bytes(folder), total()
            if done != seen:
                seen = done
                report(FetchProgress(name, done if expected is None else min(done, expected), expected))

    thread = threading.Thread(target=watch, name="fetch-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
