"""What is known of each thing in the cache: where it came from, its commit, and the sha256 of every file."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from deploykit.fsutil import write_atomic
from deploykit.hub.staging import short_name
from deploykit.hub.types import PinnedFile


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Written when a model becomes visible; `cache verify` compares the files with it."""

    source: str  # the ref that answered, as text
    revision: str  # commit of a repository, sha256 of a wheel's file
    fetched: float  # Unix seconds
    files: tuple[PinnedFile, ...]
    version: int = 1


def record_path(cache: Path, path: Path) -> Path:
    """Beside the things it tells of, in a folder of its own: a model's folder holds the model alone."""
    return cache / "records" / (short_name("--".join(path.relative_to(cache).parts)) + ".json")


def write_record(cache: Path, path: Path, record: Record) -> None:
    write_atomic(record_path(cache, path), msgspec.json.format(msgspec.json.encode(record), indent=1))


def read_record(cache: Path, path: Path) -> Record | None:
    """None for what was fetched before there were records, or where the record can't be read."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(record_path(cache, path).read_bytes(), type=Record)
    return None
