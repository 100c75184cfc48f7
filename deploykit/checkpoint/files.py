"""Opening the files of a checkpoint: regular files only, inside the folder only, of a bounded size."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from deploykit.checkpoint.errors import CheckpointError, printable

MAX_JSON_BYTES = 16 << 20
MAX_JSON_DEPTH = 64
_MAX_INT = 2**63 - 1


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. A pipe or a device is refused without blocking on it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CheckpointError("a file of the model is missing", file=path) from None
    except (OSError, ValueError) as e:
        raise CheckpointError("a file of the model can't be opened", file=path, why=str(e)) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CheckpointError("not a regular file", file=path, why="it is a folder, a pipe or a device")
    return os.fdopen(fd, "rb")


def member(folder: Path, name: str) -> Path:
    """The file `name` of a model folder. Neither the name nor a symbolic link may lead out of the folder.

    Hugging Face's own cache keeps `snapshots/REVISION/FILE` as links to `../../blobs/HASH`: there the folder of
    the whole repository is the border.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise CheckpointError(f"file name {printable(name)!r} isn't a plain name", file=folder)
    border = folder.resolve()
    if border.parent.name == "snapshots" and border.parent.parent.name.startswith("models--"):
        border = border.parent.parent
    path = folder / name
    if not path.resolve().is_relative_to(border):
        raise CheckpointError(
            "a file of the model is a symbolic link that leads out of its folder",
            file=path,
            fix="copy the file into the folder, or name the folder that really holds it",
        )
    return path


def exists(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / name)


def read_text(path: Path, limit: int = MAX_JSON_BYTES) -> str:
    """The text of a UTF-8 file of at most `limit` bytes."""
    with open_regular(path) as f:
        data = f.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"the file is over the limit of {limit} bytes", file=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise CheckpointError("the file isn't UTF-8 text", file=path, why=str(e)) from None


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object. Depth, integers and text are bounded, so that whoever gets it can write it out again."""
    text = read_text(path, limit)
    try:
        value = json.loads(text)
    except RecursionError:
        raise CheckpointError("the JSON is nested too deeply", file=path) from None
    except ValueError as e:
        raise CheckpointError("the file isn't valid JSON", file=path, why=str(e)) from None
    if not isinstance(value, dict):
        raise CheckpointError("the file doesn't hold a JSON object", file=path)
    clean: dict[str, Any] = _bounded(value, path, 0)
    return clean


def _bounded(value: Any, path: Path, depth: int) -> Any:
    if depth > MAX_JSON_DEPTH:
        raise CheckpointError(f"the JSON is nested deeper than {MAX_JSON_DEPTH} levels", file=path)
    if isinstance(value, dict):
        return {_bounded(k, path, depth): _bounded(v, path, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_bounded(v, path, depth + 1) for v in value]
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise CheckpointError("the JSON holds a lone surrogate", file=path) from None
    elif type(value) is int and abs(value) > _MAX_INT:
        # Real files write "no limit" as 10^30; a float means the same and fits every format we write.
        try:
            return float(value)
        except OverflowError:
            raise CheckpointError("the JSON holds an absurd number", file=path) from None
    return value
