"""What the cache holds: models, single files, converted weights and what interrupted fetches left; kept or removed.

Removing takes the lock of those who use a model, renames the thing out of sight, and only then deletes it: nobody ever
sees half of it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import msgspec

from deploykit.errors import DeploykitError
from deploykit.hub import heads
from deploykit.hub.locks import exclusive, use_lock, work_lock
from deploykit.hub.records import Record, read_record, record_path
from deploykit.hub.repo import repo_of
from deploykit.hub.staged import PARTIAL
from deploykit.hub.staging import folder_bytes
from deploykit.hub.usage import open_files, users

Kind = Literal["hf", "modelscope", "pypi", "headers", "converted", "partial"]
HUBS: tuple[Kind, Kind] = ("hf", "modelscope")
TRASH = "trash-"
_CONVERTED = re.compile(r"([0-9a-f]{32})-(\d+)-([a-z0-9]+)")
_OLD_CONVERTED = re.compile(
    r"[0-9a-f]{24}-[0-9a-f]+-[0-9a-f]+-\d+-[a-z0-9]+"
)  # named by a file's time and size
_count = itertools.count()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in the cache."""

    kind: Kind
    name: str  # owner/name, package==version, or the folder's name
    path: str
    bytes: int
    revision: str | None = None  # commit, or sha256 of a wheel's file
    file: str | None = None  # of a repository or a wheel, where it is one file
    pickle: bool = False  # with its .bin files: for `convert`, never served
    branches: tuple[str, ...] = ()  # that pointed to the commit when they were first asked for
    source: str | None = None  # as it was fetched
    fetched: float | None = None  # Unix seconds
    derived_from: str | None = None  # sha256 of the file that converted weights were made of, its beginning
    changed: float = 0.0  # Unix seconds of the last write or read, as far as the file system tells

    @property
    def id(self) -> str:
        """What `cache rm` and `cache verify` take."""
        text = self.name if self.revision is None else f"{self.name}@{self.revision[:12]}"
        text += f":{self.file}" if self.file is not None and self.kind in HUBS else ""
        return text + (" (with .bin)" if self.pickle else " (headers)" if self.kind == "headers" else "")

    def matches(self, text: str) -> bool:
        """Whether `text` names it: `owner/name`, `owner/name@COMMIT` (its beginning will do), an id or a path."""
        name, at, revision = text.partition("@")
        if text in (self.name, self.id, self.path):
            return True
        known = self.revision or ""
        return bool(at) and name == self.name and (revision in self.branches or _begins(known, revision))


def entries(cache: Path) -> list[Entry]:
    """Everything that can be removed by itself; nothing is read but names, sizes and records."""
    found: list[Entry] = []
    for hub in HUBS:
        for home in _folders(cache / hub):
            found += _of_repository(cache, hub, home)
    for folder in _folders(cache / "files"):
        for file in _files(folder):
            if file.suffix == PARTIAL:
                found.append(_entry(cache, "partial", file.name, file, None))
                continue
            record = read_record(cache, file)
            name = record.source.partition(" ")[2] if record else file.name
            found.append(_entry(cache, "pypi", name, file, record, revision=folder.name, file=file.name))
    for file in _files(cache / heads.FOLDER):
        if file.suffix == heads.ENDING and (record := read_record(cache, file)) is not None:
            name = record.source.split()[1].partition("@")[0]
            found.append(_entry(cache, "headers", name, file, record, revision=record.revision))
    for folder in _folders(cache / "converted"):
        match = _CONVERTED.fullmatch(folder.name)
        made_of = match[1] if match else None
        found.append(_entry(cache, "converted", folder.name, folder, None, derived_from=made_of))
    for folder in _folders(cache / "staging"):
        found.append(_entry(cache, "partial", folder.name, folder, None))
    return found


def _of_repository(cache: Path, hub: Kind, home: Path) -> Iterator[Entry]:
    branches: dict[str, list[str]] = {}
    for ref in _files(home / "refs"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            branches.setdefault(ref.read_text("ascii").strip(), []).append(unquote(ref.name))
    name = repo_of(home.name)
    for kind in ("model", "pickle", "files"):
        for folder in _folders(home / kind):
            commit = folder.name
            paths = [folder] if kind != "files" else [p for p in sorted(folder.rglob("*")) if p.is_file()]
            for path in paths:
                yield _entry(
                    cache,
                    hub,
                    name,
                    path,
                    read_record(cache, path),
                    revision=commit,
                    file=path.relative_to(folder).as_posix() if kind == "files" else None,
                    pickle=kind == "pickle",
                    branches=tuple(sorted(branches.get(commit, ()))),
                )


def _entry(
    cache: Path,
    kind: Kind,
    name: str,
    path: Path,
    record: Record | None,
    *,
    revision: str | None = None,
    file: str | None = None,
    pickle: bool = False,
    branches: tuple[str, ...] = (),
    derived_from: str | None = None,
) -> Entry:
    return Entry(
        kind=kind,
        name=name,
        path=str(path),
        bytes=_bytes(path),
        revision=revision,
        file=file,
        pickle=pickle,
        branches=branches,
        source=record.source if record else None,
        fetched=record.fetched if record else None,
        derived_from=derived_from,
        changed=_last_change(path),
    )


def _bytes(path: Path) -> int:
    """What it takes; of a look at headers that was cut off, without the holes of its files."""
    if path.name.startswith(f"{heads.FOLDER}-"):
        return sum(p.stat().st_blocks * 512 for p in path.rglob("*") if p.is_file())
    return folder_bytes(path) if path.is_dir() else path.stat().st_size


def derived(entry: Entry, found: Sequence[Entry], cache: Path) -> list[Entry]:
    """Converted weights that were made of a single file of the cache."""
    sums = _sums([entry], cache)
    return [
        e for e in found if e.derived_from is not None and any(s.startswith(e.derived_from) for s in sums)
    ]


def remove(entry: Entry, cache: Path) -> None:
    """Delete it, and what is known of it. Raises DeploykitError while a process fetches or uses it."""
    path = Path(entry.path)
    with contextlib.ExitStack() as stack:
        locks = [use_lock(cache, path)]
        if entry.kind in ("partial", "converted"):  # of who fetches or converts it
            locks.append(work_lock(cache, path.parent.name if path.suffix == PARTIAL else path.name))
        for lock in locks:
            try:
                stack.enter_context(exclusive(lock))
            except DeploykitError as e:
                raise _in_use(entry, "another process holds its lock") from e
        if pids := users(path, cache, open_files(cache)):
            raise _in_use(entry, f"its files are open in process {', '.join(map(str, sorted(pids)))}")
        trash = cache / "staging" / f"{TRASH}{os.getpid()}-{next(_count)}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, trash)
        with contextlib.suppress(OSError):
            record_path(cache, path).unlink()
        _forget(entry, path)
    shutil.rmtree(trash, ignore_errors=True) if trash.is_dir() else trash.unlink()


def _in_use(entry: Entry, why: str) -> DeploykitError:
    fix = "stop what uses it (`deploykit ps`), or wait until it is done"
    return DeploykitError(f"{entry.id} is in use", where=entry.path, why=why, fix=fix)


def _forget(entry: Entry, path: Path) -> None:
    """Branches that point to nothing any more, and folders that are empty now."""
    if entry.kind == "headers":
        heads.forget(path.parent, entry.revision or "")
        return
    if entry.kind not in HUBS:
        if path.parent.parent.name == "files":  # a wheel's file has a folder of its own
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        return
    home = next(p for p in path.parents if p.parent.name == entry.kind)
    commit = entry.revision or ""
    for folder in path.parents:
        if folder == home:
            break
        with contextlib.suppress(OSError):
            folder.rmdir()
    if not any((home / kind / commit).exists() for kind in ("model", "pickle", "files")):
        for ref in _files(home / "refs"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if ref.read_text("ascii").strip() == commit:
                    ref.unlink()
    for folder in (home / "refs", home):
        with contextlib.suppress(OSError):
            folder.rmdir()


def leftovers(
    cache: Path, *, older_than: float, found: Sequence[Entry] | None = None
) -> list[tuple[Entry, str]]:
    """What `prune` removes, with the reason: nothing that a model on this disk still needs.

    `older_than` (seconds) spares what somebody may still come back to: partial files, and weights converted from a
    file that lies outside of the cache.
    """
    found = entries(cache) if found is None else found
    sources = _sums(found, cache)
    newest: dict[tuple[str, str], int] = {}
    for entry in found:
        if match := _CONVERTED.fullmatch(entry.name):
            key = match[1], match[3]
            newest[key] = max(newest.get(key, 0), int(match[2]))
    gone: list[tuple[Entry, str]] = []
    for entry in found:
        idle = time.time() - entry.changed >= older_than
        if entry.kind == "headers":
            if any(e.kind in HUBS and (e.name, e.revision) == (entry.name, entry.revision) for e in found):
                gone.append((entry, "headers of a model that has been fetched since"))
        elif entry.kind == "partial" and (idle or entry.name.startswith(TRASH)):
            gone.append((entry, "an interrupted fetch"))
        elif entry.kind == "converted":
            match = _CONVERTED.fullmatch(entry.name)
            whole = any(p.suffix != PARTIAL for p in _files(Path(entry.path)))
            if match is None:
                outdated = _OLD_CONVERTED.fullmatch(entry.name) is not None  # else it is somebody else's
            else:
                outdated = int(match[2]) < newest[match[1], match[3]]
            if outdated:
                gone.append((entry, "made by an older version"))
            elif match is None:
                continue
            elif idle and not whole:
                gone.append((entry, "an interrupted conversion"))
            elif idle and not any(s.startswith(match[1]) for s in sources):
                gone.append((entry, "the file that it was made of isn't in the cache, and it isn't used"))
    return gone


def prune_records(cache: Path) -> None:
    """Forget records of what isn't there any more."""
    known = {record_path(cache, Path(e.path)).name for e in entries(cache)}
    for record in _files(cache / "records"):
        if record.name not in known:
            record.unlink(missing_ok=True)


def _sums(found: Sequence[Entry], cache: Path) -> set[str]:
    """sha256 of the single files in the cache."""
    sums = {e.revision for e in found if e.kind == "pypi" and e.revision is not None}
    records = (read_record(cache, Path(e.path)) for e in found if e.kind in HUBS and e.file is not None)
    return sums | {f.sha256 for r in records if r is not None for f in r.files if f.sha256 is not None}


def _begins(text: str, prefix: str) -> bool:
    return len(prefix) >= 4 and text.startswith(prefix)


def _last_change(path: Path) -> float:
    latest = 0.0
    for p in [path, *(path.rglob("*") if path.is_dir() else ())]:
        with contextlib.suppress(OSError):
            status = p.lstat()
            latest = max(latest, status.st_mtime, status.st_atime if p.is_file() else 0.0)
    return latest


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else []
