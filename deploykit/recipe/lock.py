"""The lock of a recipe: which commit its model is, and the size and sha256 of every file of it.

It lies beside the recipe (`NAME.yaml`, `NAME.lock`; with a profile `NAME.PROFILE.lock`) and belongs into version
control with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from deploykit.errors import ConfigError
from deploykit.fsutil import write_atomic

from .files import STDIN
from .recipe import LoadedRecipe

MAX_BYTES = 16 << 20
_NAME = re.compile(r"[\w+@=-][\w.+@=-]*(?:/[\w+@=-][\w.+@=-]*)*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Of the recipe's `model`, what doesn't say which model it is.
_ASIDE = ("facts", "download_dir")


class LockedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str  # path in the repository, in the folder, or inside the wheel
    size: int  # bytes
    sha256: str


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `deploykit lock` writes."""

    version: Literal[1] = 1
    recipe: str  # name
    model_sha256: str  # of the recipe's `model` section, merged
    hub: Literal["hf", "modelscope", "pypi", "path"]
    repo: str  # owner/name, package==version, or a path relative to the recipe
    revision: str | None = None  # the branch or tag that was asked for
    commit: str | None = None  # what it was; null for a wheel and a path
    file: str | None = None  # the one file of it, where it is one
    files: tuple[LockedFile, ...]

    def __str__(self) -> str:
        at = f"@{self.revision}, commit {self.commit[:12]}" if self.commit else ""
        return f"{self.hub} {self.repo}{at}"


def lock_path(loaded: LoadedRecipe) -> Path:
    """Where the recipe's lock lies. Raises ConfigError where the recipe is no file."""
    if loaded.path is None:
        raise ConfigError(
            "only a recipe file can be locked",
            why=f"{loaded.name} stands for a model, and no file says what is asked of it",
            fix="`deploykit init MODEL` writes one",
        )
    if loaded.path == STDIN:
        raise ConfigError(
            "only a recipe file can be locked",
            why="the lock lies beside it, and this one came on stdin",
            fix="write it to a file",
        )
    return loaded.path.with_name(".".join([loaded.path.stem, *loaded.profiles, "lock"]))


def write_lock(path: Path, lock: Lock) -> None:
    """Whole or not at all."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(lock), indent=2) + b"\n")


def with_lock(loaded: LoadedRecipe) -> LoadedRecipe:
    """The recipe held to the lock beside it. Raises ConfigError where that is missing, damaged or of another recipe.

    A profile that has no lock of its own is held to the recipe's: it may change nothing of the model.
    """
    path = lock_path(loaded)
    if loaded.profiles and not path.exists():
        path = lock_path(replace(loaded, profiles=()))
    lock = read_lock(path, loaded)
    digest = model_digest(loaded)
    if lock.model_sha256 != digest:
        raise ConfigError(
            "the lock was made for another recipe",
            where=str(path),
            why=f"the recipe's `model` has changed since: its sha256 is {digest[:12]}…, and the lock is of "
            f"{lock.model_sha256[:12]}… ({lock})",
            fix=f"look at the change, then: {command(loaded)}",
        )
    return replace(loaded, lock=lock)


def read_lock(path: Path, loaded: LoadedRecipe) -> Lock:
    """The lock at `path`, checked: every name is a plain path, every sum is one."""
    fix = command(loaded)
    try:
        with open(path, "rb") as f:
            raw = f.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no lock of {loaded.name}", where=str(path), fix=fix) from None
    except OSError as error:
        raise ConfigError("the lock can't be read", where=str(path), why=str(error)) from None
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        lock = msgspec.json.decode(raw, type=Lock)
        _check(lock)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError("the lock is damaged", where=str(path), why=str(error)[:300], fix=fix) from None
    return lock


def command(loaded: LoadedRecipe) -> str:
    """What writes the recipe's lock."""
    profiles = "".join(f" --profile {name}" for name in loaded.profiles)
    return f"deploykit lock {loaded.path}{profiles}"


def _check(lock: Lock) -> None:
    if lock.hub in ("hf", "modelscope") and not (lock.commit and _COMMIT.fullmatch(lock.commit)):
        raise ValueError("a repository is locked at a commit of 40 hexadecimal digits")
    if not lock.files:
        raise ValueError("it has no files")
    for file in lock.files:
        if not _NAME.fullmatch(file.name) or len(file.name) > 1000:
            raise ValueError(f"{file.name[:80]!r} isn't the name of a file")
        if not _SHA256.fullmatch(file.sha256) or not 0 <= file.size < 1 << 50:
            raise ValueError(f"{file.name}: its sha256 or its size can't be right")
    if len({f.name for f in lock.files}) != len(lock.files):
        raise ValueError("a file stands there twice")


def model_digest(loaded: LoadedRecipe) -> str:
    """sha256 of what the recipe, with everything that is laid over it, says about its model; paths relative to it."""
    data = loaded.recipe.model.model_dump(mode="json", exclude_defaults=True, exclude=set(_ASIDE))
    text = json.dumps(_relative(data, loaded), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _relative(value: Any, loaded: LoadedRecipe) -> Any:
    """The same for everybody who has the recipe, wherever it lies."""
    if isinstance(value, dict):
        return {
            k: relative_path(v, loaded) if k == "path" else _relative(v, loaded) for k, v in value.items()
        }
    return [_relative(item, loaded) for item in value] if isinstance(value, list) else value


def relative_path(path: str, loaded: LoadedRecipe) -> str:
    folder = Path.cwd() if loaded.path is None else loaded.path.resolve().parent
    return Path(os.path.relpath(path, folder)).as_posix()
