"""Installed versions and compilers, found without importing torch and without starting a process."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
from pathlib import Path

_CUDA_VERSION = re.compile(r"^#define\s+CUDA_VERSION\s+(\d+)", re.MULTILINE)
_TORCH_CUDA = re.compile(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)


def package_version(name: str) -> str | None:
    """The installed version from the package's metadata, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def parse_torch_cuda(version_py: str) -> str | None:
    """The CUDA version in the text of torch/version.py; None for a CPU build."""
    match = _TORCH_CUDA.search(version_py)
    return match[1] if match else None


def torch_cuda() -> str | None:
    """The CUDA that the installed torch was built for; None for a CPU build or without torch."""
    try:
        path = importlib.metadata.distribution("torch").locate_file("torch/version.py")
        return parse_torch_cuda(Path(str(path)).read_text(encoding="utf-8"))
    except (importlib.metadata.PackageNotFoundError, OSError, UnicodeDecodeError):
        return None


def find_compiler() -> str | None:
    """Path of a C++ compiler: $CXX, else c++, g++ or clang++."""
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name.split()[0])):
            return path
    return None


def find_nvcc() -> str | None:
    """Path of nvcc: $CUDA_HOME or $CUDA_PATH, else PATH, else /usr/local/cuda."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if (home := os.environ.get(variable)) and (
            path := shutil.which("nvcc", path=str(Path(home) / "bin"))
        ):
            return path
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def toolkit_version(nvcc: str | None) -> str | None:
    """The version of the CUDA toolkit around nvcc ("13.0"), as its cuda.h says it; None where it can't be read."""
    if nvcc is None:
        return None
    root = Path(os.path.realpath(nvcc)).parent.parent
    for header in (root / "include/cuda.h", *sorted(root.glob("targets/*/include/cuda.h"))):
        with contextlib.suppress(OSError):
            if match := _CUDA_VERSION.search(header.read_text(encoding="utf-8", errors="replace")):
                number = int(match[1])
                return f"{number // 1000}.{number % 1000 // 10}"
    return None
