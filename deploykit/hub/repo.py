"""What Hugging Face and ModelScope have in common: a repository pinned to one commit, kept as plain files in the cache.

`<hub>/OWNER--NAME/` holds `model/COMMIT/` (whole models), `files/COMMIT/` (single files), `pickle/COMMIT/` (models with
their .bin files, never served) and `refs/` (the commit that a branch pointed to when it was first asked for).
"""

from __future__ import annotations

import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import quote, unquote

import msgspec

from deploykit.errors import DeploykitError
from deploykit.fsutil import write_atomic
from deploykit.hub import http
from deploykit.hub.disk import require_space
from deploykit.hub.download import download
from deploykit.hub.http import Client, Problem
from deploykit.hub.locks import exclusive, work_lock
from deploykit.hub.pins import check_pins, summed
from deploykit.hub.records import Record, read_record, write_record
from deploykit.hub.split import parts_of
from deploykit.hub.staging import folder_bytes, short_name, sync_folder
from deploykit.hub.types import Fetched, FetchProgress, PinnedFile, RepoRef, Report, Resolved

COMMIT = re.compile(r"[0-9a-f]{40}")
T = TypeVar("T")
LISTING_TRIES = 3  # of a hub that is busy; one that can't be reached is given up at once


class RepoSource(ABC):
    """A hub's own part: `resolve`, `connect`, `url_of` and the words of its errors."""

    hub: str  # folder of the cache, and of locks and staging
    token: str  # environment variable
    mirror: str  # environment variable

    def __init__(self, ref: RepoRef, cache: Path) -> None:
        self.ref = ref
        self.cache = cache
        self.home = cache / self.hub / folder_of(ref.repo)

    @property
    def title(self) -> str:
        return self.ref.repo

    # ---- the cache

    @property
    def _kind(self) -> str:
        if self.ref.file is not None:
            return "files"
        return "pickle" if self.ref.allow_bin else "model"

    def _branch_file(self) -> Path:
        return self.home / "refs" / quote(self.ref.revision, safe="")

    def target(self, commit: str) -> Path:
        """Whole models and single files are kept apart: a folder is complete as soon as it is there."""
        folder = self.home / self._kind / commit
        return folder if self.ref.file is None else folder / self.ref.file

    def _parts(self, commit: str) -> list[Path]:
        """What is there when the fetch is done: the target, and of a model in several files its other parts."""
        target = self.target(commit)
        return [target.with_name(PurePosixPath(name).name) for name in parts_of(self.ref.file or "")] or [
            target
        ]

    def _fetched(self, commit: str) -> Fetched | None:
        path = self.target(commit)
        if not all(part.exists() for part in self._parts(commit)):
            return None
        if self.ref.pinned:
            self._check_pins(path, commit)
        return Fetched(path=path, source=str(self.ref), revision=commit)

    def _check_pins(self, path: Path, commit: str) -> None:
        """What is on the disk against what was pinned: by the sums that were taken when it was fetched."""
        files: list[PinnedFile] = []
        for part in self._parts(commit):
            record = read_record(self.cache, part)
            if record is not None:
                files += record.files
            elif part.is_dir():
                files += (summed(p, p.relative_to(part).as_posix()) for p in part.rglob("*") if p.is_file())
            else:
                files.append(summed(part, str(PurePosixPath(self.ref.file or "").with_name(part.name))))
        check_pins(self.ref.pinned, files, str(path))

    def locate(self) -> Fetched | None:
        if COMMIT.fullmatch(self.ref.revision):
            return self._fetched(self.ref.revision)
        try:
            commit = self._branch_file().read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return self._fetched(commit) if COMMIT.fullmatch(commit) else None

    # ---- the hub

    @abstractmethod
    def resolve(self) -> Resolved: ...

    @abstractmethod
    def connect(self) -> Client: ...

    @abstractmethod
    def url_of(self, file: PinnedFile, revision: str) -> str: ...

    def explain(self, problem: Problem, what: str) -> DeploykitError:
        return http.explain(problem, what=what, where=str(self.ref), token=self.token, mirror=self.mirror)

    def stage(self, commit: str) -> Path:
        """Where the files grow. Kept when it is interrupted: the next try goes on from it."""
        name = f"{self.hub}-{self.home.name}-{commit}"
        if self._kind != "model":
            name += f"-{quote(self.ref.file or self._kind, safe='')}"
        return self.cache / "staging" / short_name(name)

    def present(self, resolved: Resolved) -> int:
        return folder_bytes(self.stage(resolved.revision))

    def fetch(self, report: Report) -> Fetched:
        resolved = self.sized(self.resolve())
        commit = resolved.revision
        stage = self.stage(commit)

        def wait() -> None:
            report(
                FetchProgress(f"{self.title}: another process fetches it", folder_bytes(stage), resolved.size)
            )

        with exclusive(work_lock(self.cache, stage.name), wait=wait):
            if self._fetched(commit) is None:
                if resolved.size is not None:
                    need = max(0, resolved.size - folder_bytes(stage))
                    require_space(self.cache, need, what=str(self.ref))
                stage.mkdir(parents=True, exist_ok=True)
                files = download(self, resolved.files, commit, stage, report)
                self._publish(stage, commit, files)
            if not COMMIT.fullmatch(self.ref.revision):
                write_atomic(self._branch_file(), commit.encode())
        found = self._fetched(commit)
        if found is None:
            raise DeploykitError("the fetched files have disappeared", where=str(self.target(commit)))
        return found

    def sized(self, resolved: Resolved) -> Resolved:
        """Some mirrors list no sizes: each such file is asked for, and its header read."""
        if resolved.size is not None:
            return resolved
        files = []
        client = self.connect()
        try:
            for file in resolved.files:
                size = file.size
                if size is None:
                    with client.open(self.url_of(file, resolved.revision)) as response:
                        length = response.headers.get("content-length", "")
                        size = int(length) if length.isascii() and length.isdigit() else None
                files.append(msgspec.structs.replace(file, size=size))
        except Problem as problem:
            raise self.explain(problem, f"{file.name} couldn't be fetched") from problem
        finally:
            client.close()
        return Resolved(resolved.revision, tuple(files))

    def _publish(self, stage: Path, commit: str, files: tuple[PinnedFile, ...]) -> None:
        """Rename what was staged into place: the folder of a whole model, or the one file."""
        target = self.target(commit)
        record = Record(source=str(self.ref), revision=commit, fetched=time.time(), files=files)
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.ref.file is not None:
            for file in files:
                part = target.with_name(PurePosixPath(file.name).name)
                write_record(self.cache, part, msgspec.structs.replace(record, files=(file,)))
                os.replace(stage / file.name, part)
            shutil.rmtree(stage, ignore_errors=True)
        else:
            write_record(self.cache, target, record)
            _remove_strays(stage, {f.name for f in files})
            os.replace(stage, target)
        sync_folder(target.parent)


def _remove_strays(stage: Path, wanted: set[str]) -> None:
    """What an earlier try of another kind has left: the folder of a model holds what was checked, and nothing else."""
    folders = {str(parent) for name in wanted for parent in PurePosixPath(name).parents}
    for found in stage.iterdir():
        is_folder = found.is_dir() and not found.is_symlink()
        if found.name in folders and is_folder:
            inside = {name.partition("/")[2] for name in wanted if name.startswith(f"{found.name}/")}
            _remove_strays(found, inside)
        elif is_folder:
            shutil.rmtree(found)
        elif found.name not in wanted:
            found.unlink()


def folder_of(repo: str) -> str:
    """`owner/name` as one folder's name; no two ids share one."""
    return repo.replace("--", "%2D%2D").replace("/", "--")


def repo_of(folder: str) -> str:
    """The id that `folder_of` was given."""
    owner, _, name = folder.rpartition("--")
    return unquote(f"{owner}/{name}")


def patiently(ask: Callable[[], T]) -> T:
    """Ask a hub's API, again while it says that it is busy."""
    for attempt in range(1, LISTING_TRIES):
        try:
            return ask()
        except Problem as problem:
            if problem.status is None or not problem.again:
                raise
            http.pause(attempt, problem, time.sleep)
    return ask()
