"""The C++ sources: where they are, what they are worth as a hash, and a snapshot that compiles undisturbed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import deploykit
from deploykit.build.types import Target
from deploykit.errors import DeploykitError

_PACKAGE = Path(deploykit.__file__).parent
_HEADER = "include/deploykit/engine.h"
_ABI_VERSION = re.compile(r"^#define\s+DEPLOYKIT_ABI_VERSION\s+(\d+)", re.MULTILINE)
OPTIONAL = ("cuda", "tests", "bench")  # folders below the root that not every build has


def find_sources() -> Path | None:
    """The checkout's native/, or what a wheel carries of it."""
    for folder in (_PACKAGE.parent / "native", _PACKAGE / "_native_src"):
        if (folder / "CMakeLists.txt").is_file() and (folder / _HEADER).is_file():
            return folder
    return None


def source_dir() -> Path:
    """`find_sources`, or DeploykitError."""
    found = find_sources()
    if found is None:
        raise DeploykitError(
            "this installation of deploykit has no C++ sources",
            where=str(_PACKAGE),
            why="neither native/ beside the package nor _native_src/ inside it is there",
            fix="install deploykit again, from a wheel or an sdist that has them",
        )
    return found


def abi_version(sources: Path) -> int:
    """DEPLOYKIT_ABI_VERSION of the header: what a library has to answer."""
    match = _ABI_VERSION.search((sources / _HEADER).read_text(encoding="utf-8"))
    if match is None:
        raise DeploykitError("the header names no DEPLOYKIT_ABI_VERSION", where=str(sources / _HEADER))
    return int(match[1])


def parts_of(target: Target) -> tuple[str, ...]:
    """The optional folders that a library for `target` is compiled of."""
    return ("cuda",) if target.kind == "cuda" else ()


def files(sources: Path, parts: Collection[str] = ()) -> Iterator[str]:
    """Paths of the sources below `sources`, sorted; of the optional folders those in `parts` alone."""
    for root, folders, names in os.walk(sources):
        top = Path(root) == sources
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__")) and not (top and name in OPTIONAL and name not in parts)
        )
        prefix = "" if top else Path(root).relative_to(sources).as_posix() + "/"
        yield from sorted(prefix + name for name in names if is_source(name))


def is_source(name: str) -> bool:
    """Sources are C++, CUDA and CMake: notes, editors' copies and whatever else lies about change nothing."""
    return name == "CMakeLists.txt" or name.endswith((".h", ".cpp", ".cu", ".cuh", ".cmake", ".inc"))


def digest(sources: Path, parts: Collection[str] = ()) -> str:
    """sha256 over names and contents, as hex."""
    total = hashlib.sha256()
    for name in files(sources, parts):
        data = (sources / name).read_bytes()
        total.update(f"{name}\0{len(data)}\0".encode())
        total.update(data)
    return total.hexdigest()


def snapshot(sources: Path, target: Path, parts: Collection[str] = ()) -> str:
    """Make `target` a copy of the sources and return its digest.

    Files that are equal keep their times, so that only what changed is compiled again; whoever edits the sources
    meanwhile changes neither what is compiled nor what it is called.
    """
    wanted = list(files(sources, parts))
    for name in set(files(target, OPTIONAL)) - set(wanted):
        (target / name).unlink()
    for name in wanted:
        data = (sources / name).read_bytes()
        copy = target / name
        if not copy.is_file() or copy.read_bytes() != data:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
    return digest(target, parts)
