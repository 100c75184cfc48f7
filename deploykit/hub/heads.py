"""The beginnings of a model's files, read by range and kept: enough to say what it is before it is fetched.

What is kept is one file for each model and commit under `headers/`, so that a second look needs no connection. `view`
lays the files out again, each as long as the whole one: what wasn't read is a hole, which takes no space on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, Protocol, cast
from urllib.parse import quote

import msgspec

from deploykit.errors import DeploykitError
from deploykit.fsutil import write_atomic
from deploykit.hub import parts
from deploykit.hub.http import Client, Problem
from deploykit.hub.pins import check_pins
from deploykit.hub.ranges import Budget, RemoteFile
from deploykit.hub.records import Record, write_record
from deploykit.hub.repo import COMMIT, RepoSource
from deploykit.hub.staging import fresh_folder, mismatch, short_name
from deploykit.hub.types import FetchProgress, NoHeaders, PinnedFile, Report, Resolved

MAX_BYTES = 1 << 30  # of all headers of one model; the largest there are have some ten millions
FOLDER = "headers"
ENDING = ".heads"
_PROBE = 4 << 20  # bytes
_views = itertools.count()


class Reader(Protocol):
    """Who knows what a header is."""

    def wanted(self, name: str) -> bool:
        """Whether the file is looked into at all."""
        ...

    def read_head(self, name: str, file: BinaryIO) -> None:
        """Read from the file's beginning as much as is needed; what was read is kept."""
        ...


class Head(msgspec.Struct, frozen=True):
    """The beginning of one file, and what is known of the whole."""

    name: str
    size: int  # bytes of the whole file
    data: bytes
    sha256: str | None = None  # of the whole file, where the hub tells


class Heads(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model whose files are elsewhere."""

    source: str  # the ref that answered, as text
    revision: str  # commit of a repository, sha256 of a wheel's file
    read: float  # Unix seconds
    target: str  # below the cache: where the model lies once it is fetched
    single: bool  # one file, or a folder of them
    files: tuple[Head, ...]
    version: int = 1


# ---------------------------------------------------------------- what is kept


def kept(source: RepoSource) -> Heads | None:
    """What an earlier look has kept, without a connection; a branch is what it was then."""
    revision = source.ref.revision
    if not COMMIT.fullmatch(revision):
        try:
            revision = _branch_file(source).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
    heads = load(_file_of(source, revision)) if COMMIT.fullmatch(revision) else None
    if heads is not None and source.ref.pinned:
        there = [PinnedFile(h.name, h.size, h.sha256) for h in heads.files]
        names = {h.name for h in heads.files}
        check_pins([p for p in source.ref.pinned if p.name in names], there, str(source.ref))
    return heads


def asked(source: RepoSource) -> float | None:
    """When the hub was last asked where the branch stands, in Unix seconds; None for a commit, and for a new one."""
    if COMMIT.fullmatch(source.ref.revision):
        return None
    with contextlib.suppress(OSError):
        return _branch_file(source).stat().st_mtime
    return None


def load(file: Path) -> Heads | None:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        heads = msgspec.msgpack.decode(file.read_bytes(), type=Heads)
        return heads if heads.version == 1 else None
    return None


def store(cache: Path, file: Path, heads: Heads) -> None:
    record = Record(source=heads.source, revision=heads.revision, fetched=heads.read, files=())
    write_record(cache, file, record)
    write_atomic(file, msgspec.msgpack.encode(heads))


def forget(folder: Path, commit: str) -> None:
    """Branches that stood at a commit whose headers aren't there any more."""
    refs = folder / "refs"
    for ref in list(refs.iterdir()) if refs.is_dir() else ():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if ref.read_text("ascii").strip() == commit:
                ref.unlink()


def _file_of(source: RepoSource, commit: str) -> Path:
    name = f"{source.hub}--{source.home.name}--{commit}"
    if source.ref.file is not None:
        name += f"--{quote(source.ref.file, safe='')}"
    return source.cache / FOLDER / (short_name(name) + ENDING)


def _branch_file(source: RepoSource) -> Path:
    name = f"{source.hub}--{source.home.name}--{quote(source.ref.revision, safe='')}"
    return source.cache / FOLDER / "refs" / short_name(name)


# ---------------------------------------------------------------- reading


def read_heads(source: RepoSource, reader: Reader, report: Report) -> Heads:
    """Ask the hub what the model is, and read the headers of its files; kept ones of the same commit are taken.

    Raises DeploykitError for a hub that can't be asked, that sends whole files whatever part is asked for, or whose
    files aren't what the reader takes for a model's.
    """
    resolved = source.resolve()
    commit = resolved.revision
    file = _file_of(source, commit)
    heads = load(file)
    if heads is None:
        files = source.sized(
            Resolved(commit, tuple(f for f in resolved.files if reader.wanted(f.name)))
        ).files
        heads = Heads(
            source=str(source.ref),
            revision=commit,
            read=time.time(),
            target=str(source.target(commit).relative_to(source.cache)),
            single=source.ref.file is not None,
            files=tuple(_read_all(source, files, commit, reader, report)),
        )
        store(source.cache, file, heads)
    if not COMMIT.fullmatch(source.ref.revision):
        write_atomic(_branch_file(source), commit.encode())
    return heads


def _read_all(
    source: RepoSource, files: Sequence[PinnedFile], commit: str, reader: Reader, report: Report
) -> list[Head]:
    client = source.connect()

    def on_bytes(count: int) -> None:
        report(FetchProgress(f"{source.title}: headers", count, None))

    budget = Budget(MAX_BYTES, on_bytes)
    waiting: queue.SimpleQueue[tuple[PinnedFile, Future[Head]]] = queue.SimpleQueue()
    jobs: list[Future[Head]] = [Future() for _ in files]
    for item in zip(files, jobs, strict=True):
        waiting.put(item)

    def work() -> None:
        while not budget.stopped:
            try:
                file, job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                job.set_result(_read_one(source, client, file, commit, reader, budget))
            except Exception as error:
                job.set_exception(error)

    try:
        for _ in range(min(len(files), parts.CONNECTIONS)):  # an end of this process doesn't wait for them
            threading.Thread(target=work, daemon=True, name="read-heads").start()
        return [job.result() for job in jobs]
    finally:
        budget.stopped = True
        client.close()


def _read_one(
    source: RepoSource, client: Client, file: PinnedFile, commit: str, reader: Reader, budget: Budget
) -> Head:
    if file.size is None:
        raise DeploykitError(f"the hub doesn't tell the size of {file.name}", where=str(source.ref))
    remote = RemoteFile(client, source.url_of(file, commit), file.size, budget)
    try:
        reader.read_head(file.name, cast(BinaryIO, remote))
    except Problem as problem:
        raise source.explain(problem, f"the header of {file.name} couldn't be read") from problem
    except parts.RangeIgnored:
        raise whole_files_only(str(source.ref), file.name) from None
    data = bytes(remote.head)
    if len(data) == file.size:
        _check_sum(file, data)
    return Head(file.name, file.size, data, file.sha256)


def _check_holes(folder: Path) -> None:
    """Raises OSError where a hole would be written out: a model's may be as large as the disk."""
    path = folder / "hole"
    with open(path, "wb") as f:
        f.truncate(_PROBE)
        taken = os.fstat(f.fileno()).st_blocks * 512
    path.unlink()
    if taken > _PROBE // 2:
        raise OSError("the file system keeps no holes in files")


def whole_files_only(where: str, name: str) -> NoHeaders:
    return NoHeaders(
        f"the header of {name} can't be read by itself",
        where=where,
        why="a part of the file was asked for, and the server sends all of it",
        fix="add --fetch to download the model first",
    )


def _check_sum(file: PinnedFile, data: bytes) -> None:
    got = hashlib.sha256(data).hexdigest()
    if file.sha256 is not None and got != file.sha256:
        raise mismatch(file.name, file.sha256, got)
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if file.sha256 is None and file.git_sha1 is not None and git != file.git_sha1:
        raise mismatch(file.name, f"git's {file.git_sha1}", f"git's {git}")


# ---------------------------------------------------------------- a look at them


@contextlib.contextmanager
def view(heads: Heads, cache: Path) -> Iterator[Path]:
    """The model as it would lie on the disk, its headers filled in and the rest of each file a hole.

    Gone afterwards: nobody may take it for the model. Raises DeploykitError where the file system has no such files.
    """
    with fresh_folder(cache / "staging" / f"{FOLDER}-{os.getpid()}-{next(_views)}") as stage:
        folder = stage / heads.revision
        try:
            _check_holes(stage)
            for head in heads.files:
                path = folder / head.name
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as f:
                    f.write(head.data)
                    f.truncate(head.size)
        except OSError as e:
            fix = "add --fetch to download the model first, or set DEPLOYKIT_CACHE to another file system"
            raise NoHeaders("the headers can't be laid out", where=str(stage), why=str(e), fix=fix) from None
        yield folder / heads.files[0].name if heads.single else folder
