"""The tools of a build: compiler, CMake, Ninja, pybind11, the interpreter's headers."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from deploykit.hardware.toolchain import find_compiler, package_version

OLDEST_CMAKE = (3, 24)
OLDEST_NINJA = (1, 10)
# The first that know every instruction set the kernels are compiled for (-mavxvnni, -mavx512bf16).
OLDEST_COMPILERS = {"GCC": (11,), "Clang": (12,), "Apple Clang": (13,)}
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Tool:
    path: str
    version: str  # the first line that it says of itself

    @property
    def numbers(self) -> tuple[int, ...]:
        match = _VERSION.search(re.sub(r"\([^)]*\)", "", self.version)) or _VERSION.search(self.version)
        return tuple(int(part) for part in match.groups() if part) if match else ()


def ask_version(path: str) -> str:
    """The first line of `path --version`; "" where it says nothing. Asked once for each state of the file."""
    try:
        status = Path(path).stat()
    except OSError:
        return ""
    return _ask(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=32)
def _ask(path: str, mtime_ns: int, size: int) -> str:
    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, env=env, check=False
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""


def compiler(path: str | None = None) -> Tool | None:
    """The C++ compiler ($CXX, else c++, g++, clang++), or the one at `path`."""
    path = path or find_compiler()
    return Tool(path, ask_version(path)) if path else None


def compiler_kind(tool: Tool) -> str | None:
    """GCC, Clang or Apple Clang; None for one that is not known."""
    text = tool.version.lower()
    if "apple" in text and "clang" in text:
        return "Apple Clang"
    if "clang" in text:
        return "Clang"
    # "c++ (Debian 12.2.0) 12.2.0": GCC calls itself by the name that it was called by.
    if "gcc" in text or "g++" in text or "c++" in text or "free software foundation" in text:
        return "GCC"
    return None


def cmake() -> Tool | None:
    """CMake of the Python package, else the one on PATH where it is new enough."""
    packaged = _package_folder("cmake")
    return _first_new_enough(
        [packaged / "data" / "bin" / "cmake" if packaged else None, shutil.which("cmake")], OLDEST_CMAKE
    )


def ninja() -> Tool | None:
    """Ninja of the Python package, else the one on PATH where it is new enough."""
    candidates: list[Path | str | None] = []
    if package_version("ninja"):
        candidates.append(Path(sysconfig.get_path("scripts")) / "ninja")
        if packaged := _package_folder("ninja"):
            candidates.append(packaged / "data" / "bin" / "ninja")  # where older ones have it
    return _first_new_enough([*candidates, shutil.which("ninja")], OLDEST_NINJA)


def _first_new_enough(candidates: list[Path | str | None], oldest: tuple[int, ...]) -> Tool | None:
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            tool = Tool(str(candidate), ask_version(str(candidate)))
            if tool.numbers >= oldest:
                return tool
    return None


def _package_folder(name: str) -> Path | None:
    """A package's folder, found without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


def pybind11_folder() -> Path | None:
    """Where CMake finds pybind11."""
    packaged = _package_folder("pybind11")
    folder = packaged / "share" / "cmake" / "pybind11" if packaged else None
    return folder if folder and folder.is_dir() else None


def pybind11_version() -> str:
    return package_version("pybind11") or ""


def python_header() -> Path:
    """Python.h of the running interpreter, there or not."""
    return Path(sysconfig.get_path("include")) / "Python.h"


def python_abi() -> str:
    """The running interpreter and C library, as far as a module depends on them."""
    libc = ""
    if hasattr(os, "confstr") and "CS_GNU_LIBC_VERSION" in os.confstr_names:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ""
    return f"{sys.implementation.cache_tag} {suffix} {platform.system()} {platform.machine()} {libc}".strip()
