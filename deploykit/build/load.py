"""Importing the module of a build."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from deploykit.build import sources
from deploykit.build.types import MODULE, Build
from deploykit.errors import DeploykitError


def load(build: Build) -> ModuleType:
    """The module of a build that `ensure` gave, imported into this process; the same one at a second call.

    Raises DeploykitError with the linker's own words where it doesn't load, and where it isn't of this version.
    """
    present = sys.modules.get(MODULE)
    if present is not None:
        if present.__file__ != str(build.module):
            raise DeploykitError(
                "another native library is loaded already",
                where=present.__file__,
                why=f"{build.module} was asked for, and a process holds one",
                fix="start a new process",
            )
        return present
    spec = importlib.util.spec_from_file_location(MODULE, build.module)
    try:
        if spec is None or spec.loader is None:
            raise ImportError("no Python module by its name")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise _unusable(build, str(error)) from None
    source = sources.find_sources()
    if source is not None and module.abi_version() != (wanted := sources.abi_version(source)):
        raise _unusable(build, f"it speaks version {module.abi_version()} of the interface, not {wanted}")
    sys.modules[MODULE] = module
    return module


def _unusable(build: Build, why: str) -> DeploykitError:
    return DeploykitError(
        "the native library can't be loaded", where=str(build.module), why=why, fix="deploykit build --force"
    )
