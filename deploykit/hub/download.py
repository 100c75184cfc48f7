"""The files of a repository into a staging folder: several parts at once, resumed where they were left, checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Protocol

from deploykit.errors import DeploykitError
from deploykit.hub import http
from deploykit.hub.http import Client, Problem
from deploykit.hub.parts import Parts, RangeIgnored, Source, stream
from deploykit.hub.staged import StagedFile
from deploykit.hub.staging import Mismatch
from deploykit.hub.types import FetchProgress, PinnedFile, Report

_POLL_S = 0.2


class Repo(Protocol):
    """What a download has to know of a repository."""

    @property
    def title(self) -> str:
        """What progress calls it."""
        ...

    def connect(self) -> Client: ...

    def url_of(self, file: PinnedFile, revision: str) -> str: ...

    def explain(self, problem: Problem, what: str) -> DeploykitError: ...


def download(
    repo: Repo, files: Sequence[PinnedFile], revision: str, stage: Path, report: Report
) -> tuple[PinnedFile, ...]:
    """Every file of `files` in `stage`, whole and checked; returned with the sha256 of each.

    Their sizes must be known. What an earlier try left in `stage` is used: a whole file after it is checked again, a
    partial one from where it ends. Raises DeploykitError that names the file; what has arrived stays for the next try.
    """
    done: dict[str, PinnedFile] = {}
    progress = _Progress(repo.title, sum(f.size or 0 for f in files), report)
    stale: set[str] = set()
    while True:
        missing = [StagedFile(f, stage) for f in files if f.name not in done]
        for staged in missing:
            if (found := staged.whole()) is not None:
                done[found.name] = found
        missing = [s for s in missing if s.file.name not in done]
        progress.done = sum(f.size or 0 for f in done.values())
        if not missing:
            progress.show(0)
            return tuple(done[f.name] for f in files)
        run = _Run(repo, missing, revision, progress)
        try:
            run.fetch()
        except Mismatch:
            # The beginning was from an earlier try, and may have been damaged since: once more from the first byte.
            current = run.current
            if not current.resumed or current.file.name in stale:
                raise
            stale.add(current.file.name)
        finally:
            run.close()
            done.update((f.name, f) for f in run.finished)


class _Run:
    """One client, and the files that are still to come."""

    def __init__(self, repo: Repo, missing: list[StagedFile], revision: str, progress: _Progress) -> None:
        self._repo = repo
        self._missing = missing
        self._sources = [
            Source(s.file.name, repo.url_of(s.file, revision), s.size, s.resume()) for s in missing
        ]
        self._progress = progress
        progress.done += sum(s.start for s in self._sources)
        progress.show(0)
        self._client = repo.connect()
        self._parts = Parts(self._client, self._sources)
        self._at = 0  # the file that is being written: one after the other
        self.finished: list[PinnedFile] = []

    @property
    def current(self) -> StagedFile:
        return self._missing[self._at]

    def close(self) -> None:
        self._parts.close()
        for staged in self._missing:
            staged.close()

    def fetch(self) -> None:
        try:
            for part, future in self._parts:
                self._finish_until(part.file)
                self._progress.name = self.current.file.name
                try:
                    data = self._wait(future)
                except RangeIgnored:
                    self._fetch_whole()
                else:
                    self.current.write(data)
                    self._progress.done += len(data)
                    self._progress.show(self._parts.in_flight)
            self._finish_until(len(self._missing))
        except Problem as problem:
            what = f"{self.current.file.name} couldn't be fetched"
            raise self._repo.explain(problem, what) from problem

    def _finish_until(self, index: int) -> None:
        while self._at < index:
            self.finished.append(self.current.finish())
            self._at += 1

    def _wait(self, future: Future[bytearray]) -> bytearray:
        while True:
            try:
                return future.result(_POLL_S)
            except NotYet:
                if future.done():
                    raise
                self._progress.show(self._parts.in_flight)

    def _fetch_whole(self) -> None:
        """The hub knows no ranges: the file from its first byte, over one connection."""
        self._parts.take_whole(self._at)
        for attempt in range(1, http.TRIES + 1):
            self._progress.done -= self.current.restart()
            try:
                for piece in stream(self._client, self._sources[self._at]):
                    self.current.write(piece)
                    self._progress.done += len(piece)
                    self._progress.show(0)
                return
            except Problem as problem:
                if not problem.again or attempt == http.TRIES:
                    raise
                http.pause(attempt, problem, time.sleep)


class _Progress:
    """One figure for the whole repository."""

    def __init__(self, name: str, total: int, report: Report) -> None:
        self.name = name
        self.done = 0
        self._total = total
        self._report = report
        self._shown = 0

    def show(self, in_flight: int) -> None:
        """What was shown doesn't go back: a part that is handed over is counted again a moment later."""
        self._shown = max(self._shown, min(self.done + in_flight, self._total))
        self._report(FetchProgress(self.name, self._shown, self._total))
