"""The builds in the cache: `native/<key>/` each, whole or not there.

Beside them lie the working trees (`native/work/<tree>/`), whose objects the next build goes on from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import msgspec

from deploykit.build import sources, tools
from deploykit.build.key import Identity, identify
from deploykit.build.types import LIBRARY, MODULE, Build, Target
from deploykit.fsutil import cache_dir, write_atomic

FORMAT = 1
MANIFEST = "build.json"
LOG = "build.log"
KEPT_BUILDS = 6
KEPT_TREES = 4
_FIELDS = {
    "sources": "the sources",
    "python": "the Python or the C library",
    "compiler": "the compiler",
    "cuda": "the CUDA toolkit",
    "pybind11": "pybind11",
    "flags": "the compiler flags",
}
_PARTIAL = ".partial-"
_STALE_S = 3600.0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`build.json`: what a build was made from, and what it is."""

    format: int
    identity: Identity
    abi_version: int
    devices: tuple[str, ...]
    files: dict[str, int]  # name -> bytes
    seconds: float
    built: float  # seconds since 1970


def store_dir() -> Path:
    return cache_dir() / "native"


def find(target: Target) -> Build | None:
    """The build of the sources as they are now; None where it has to be made. Starts no compiler.

    Without a compiler (an image that only runs) one that was made by any compiler counts.
    """
    source = sources.find_sources()
    if source is None:
        return None
    identity = identify(source, target)
    found = read(store_dir() / identity.key, target)
    if found or identity.compiler:
        return found
    return next(
        (
            build
            for folder, manifest in manifests()
            if manifest.identity.runs(identity) and (build := read(folder, target))
        ),
        None,
    )


def stale(target: Target) -> str | None:
    """What changed since the newest build for `target`; None where there is none, or it is the present one."""
    source = sources.find_sources()
    newest = next((m.identity for _, m in manifests() if m.identity.target == target.name), None)
    if source is None or newest is None:
        return None
    now = identify(source, target)
    changed = [words for field, words in _FIELDS.items() if getattr(now, field) != getattr(newest, field)]
    return ", ".join(changed) or None


def read(folder: Path, target: Target) -> Build | None:
    """The build in `folder`, if it is there in full."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    for name, size in manifest.files.items():
        try:
            if (folder / name).stat().st_size != size:
                return None
        except OSError:
            return None
    names = {name.partition(".")[0]: folder / name for name in manifest.files}
    log = folder / LOG
    return Build(
        target=target,
        folder=folder,
        module=names[MODULE],
        library=names[f"lib{LIBRARY}"],
        key=folder.name,
        origin="built",
        log=log if log.is_file() else None,
    )


def read_manifest(folder: Path) -> Manifest | None:
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    names = {name.partition(".")[0] for name in manifest.files}
    return manifest if manifest.format == FORMAT and names == {MODULE, f"lib{LIBRARY}"} else None


def manifests() -> list[tuple[Path, Manifest]]:
    """Every build of the cache, the newest first."""
    found = [
        (folder, manifest)
        for folder in _folders(store_dir())
        if (manifest := read_manifest(folder)) is not None
    ]
    return sorted(found, key=lambda item: item[1].built, reverse=True)


def stage() -> Path:
    """A new empty folder beside the builds, to become one of them."""
    store_dir().mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=store_dir()))


def install(staged: Path, manifest: Manifest) -> Path:
    """Rename a staged folder to its key; one that is there under that key makes way."""
    write_atomic(staged / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    for name in manifest.files:
        _sync(staged / name)
    staged.chmod(0o755)
    target = store_dir() / manifest.identity.key
    if target.exists():
        old = stage()
        os.replace(target, old / "old")
        os.replace(staged, target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(staged, target)
    _sync(store_dir())
    return target


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def prune(keep: str) -> None:
    """Remove all but the newest few builds (`keep` is the one just made) and what killed builds left behind."""
    for folder, _ in manifests()[KEPT_BUILDS:]:
        if folder.name != keep:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in store_dir().glob(f"{_PARTIAL}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


def _folders(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []


def module_name() -> str:
    """File name of the module for the running interpreter."""
    import sysconfig

    return MODULE + str(sysconfig.get_config_var("EXT_SUFFIX"))


def library_name() -> str:
    return f"lib{LIBRARY}" + (".dylib" if "Darwin" in tools.python_abi().split() else ".so")
