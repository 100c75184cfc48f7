"""Libraries that came ready made: in DEPLOYKIT_NATIVE_DIR, or inside the package. Used only after the check."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

import deploykit
from deploykit.build import sources, store, tools
from deploykit.build.check import judge
from deploykit.build.types import LIBRARY, Build, Target
from deploykit.errors import ConfigError
from deploykit.fsutil import write_atomic

VARIABLE = "DEPLOYKIT_NATIVE_DIR"
_VERDICTS = "prebuilt.json"


def find(target: Target) -> Build | None:
    """The prebuilt library for `target`, checked (the verdict is kept while its files stay the same).

    Raises ConfigError where DEPLOYKIT_NATIVE_DIR names one that can't be used: what is asked for is honoured or
    refused. The package's own is passed over, since another can be built.
    """
    if named := os.environ.get(VARIABLE):
        build = read(Path(named).expanduser(), target)
        why = f"it has no {store.module_name()}" if build is None else why_not(build)
        if build is None or why:
            raise ConfigError(
                f"the native library of {VARIABLE} can't be used for {target.name}",
                where=named,
                why=why,
                fix=f"unset {VARIABLE}, and `deploykit build` makes one; or build it for this version of deploykit",
            )
        return build
    build = read(Path(deploykit.__file__).parent / "_native", target)
    return build if build and why_not(build) is None else None


def read(folder: Path, target: Target) -> Build | None:
    """What lies in `folder`, unchecked."""
    module = folder / store.module_name()
    if not module.is_file():
        return None
    library = next(iter(sorted(folder.glob(f"lib{LIBRARY}.*"))), module)
    return Build(target, folder, module, library, key="", origin="prebuilt")


def why_not(build: Build) -> str | None:
    """Why a prebuilt library can't be used; None where it can."""
    source = sources.find_sources()
    abi = sources.abi_version(source) if source else None
    if abi is None:
        return "this installation has no header to compare its interface with"
    stamps = f"{_stamp(build.module)} {_stamp(build.library)}"
    name = f"{build.module} {stamps} {build.target.name} {abi} {tools.python_abi()}"
    file = store.store_dir() / _VERDICTS
    known = _read(file)
    if name not in known:
        why = judge(build.module, build.target, abi).why or ""
        known = {**dict(list(known.items())[-15:]), name: why}
        try:
            write_atomic(file, msgspec.json.encode(known))
        except OSError:  # a cache that can't be written only costs the next check
            return why or None
    return known[name] or None


def _read(file: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"
