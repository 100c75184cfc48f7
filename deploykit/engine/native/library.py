"""Getting hold of the library: found by the build room, imported, and never one of another interface."""

from __future__ import annotations

from types import ModuleType

from deploykit.build import CPU, Target, load, locate
from deploykit.build.types import Build
from deploykit.errors import DeploykitError


def open_library(target: Target = CPU) -> ModuleType:
    """The binding `_deploykit_native`, imported into this process.

    Raises DeploykitError where it isn't built, where the linker refuses it (in the linker's own words) and where it
    speaks another version of the interface. DEPLOYKIT_NATIVE_DIR names a folder to take it from instead.
    """
    found = locate(target)
    if found is None:
        raise DeploykitError(
            "the native library is not built",
            where=f"target {target.name}",
            why="neither the cache nor the package holds one of the present sources",
            fix="run `deploykit build`",
        )
    module = load(found)
    _check_abi(module, found)
    return module


def _check_abi(module: ModuleType, found: Build) -> None:
    """The module was compiled with one version's headers, and the library that the linker took must be of it."""
    library, headers = module.abi_version(), module.ABI_VERSION
    if library != headers:
        raise DeploykitError(
            "the native library and its Python module don't belong together",
            where=str(found.module),
            why=f"the library speaks version {library} of the interface, the module version {headers}",
            fix="deploykit build --force",
        )
