"""The cache's files against the sums that were written down when they arrived."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from deploykit.hub.cache import Entry
from deploykit.hub.records import read_record
from deploykit.hub.types import FetchProgress, PinnedFile, Report

_CHUNK = 1 << 20


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`ok` is None where nothing is known that could be compared."""

    id: str
    path: str
    ok: bool | None
    files: int = 0
    problems: tuple[str, ...] = ()  # one line for each file that is wrong


def verify(entry: Entry, cache: Path, report: Report) -> Verdict:
    """Read every file of a model again. Converted weights and partial files have no sums: nothing is said of them."""
    path = Path(entry.path)
    expected = _expected(entry, cache)
    if expected is None:
        return Verdict(id=entry.id, path=entry.path, ok=None)
    total = sum(f.size or 0 for f in expected)
    done = 0
    problems: list[str] = []
    for file in expected:
        place = path / file.name if path.is_dir() else path
        report(FetchProgress(f"{entry.id}: {file.name}", done, total))
        if (problem := _check(place, file, entry.id, done, total, report)) is not None:
            problems.append(f"{file.name}: {problem}")
        done += file.size or 0
    if path.is_dir():
        known = {f.name for f in expected}
        strays = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        problems += [f"{name}: wasn't fetched with the others" for name in strays if name not in known]
    return Verdict(
        id=entry.id, path=entry.path, ok=not problems, files=len(expected), problems=tuple(problems)
    )


def _expected(entry: Entry, cache: Path) -> tuple[PinnedFile, ...] | None:
    if entry.kind == "pypi":  # its folder is named by its sha256
        return (PinnedFile(Path(entry.path).name, entry.bytes, entry.revision),)
    if entry.kind not in ("hf", "modelscope"):
        return None
    record = read_record(cache, Path(entry.path))
    if record is None:
        return None
    if entry.file is None:
        return record.files
    return tuple(msgspec.structs.replace(f, name=Path(entry.path).name) for f in record.files)


def _check(path: Path, file: PinnedFile, name: str, before: int, total: int, report: Report) -> str | None:
    if path.is_symlink() or not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size} bytes instead of {file.size}"
    digest = hashlib.sha256()
    done = 0
    with open(path, "rb") as f:
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(FetchProgress(f"{name}: {file.name}", before + done, total))
    if file.sha256 is not None and digest.hexdigest() != file.sha256:
        return f"its sha256 should be {file.sha256}, it is {digest.hexdigest()}"
    return None
