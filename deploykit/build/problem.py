"""Why nothing can be compiled here, and what to install."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.build import cuda, sources, tools
from deploykit.build.types import CPU, Target

if TYPE_CHECKING:
    from deploykit.hardware.machine import Machine

# family of distributions -> (C++ compiler, Python's headers)
_INSTALL = {
    "debian": ("apt install g++", "apt install python3-dev"),
    "fedora": ("dnf install gcc-c++", "dnf install python3-devel"),
    "arch": ("pacman -S gcc", "pacman -S python"),
    "suse": ("zypper install gcc-c++", "zypper install python3-devel"),
    "alpine": ("apk add g++", "apk add python3-dev"),
    "macos": ("xcode-select --install", "brew install python"),
}
_FAMILIES = {"ubuntu": "debian", "rhel": "fedora", "centos": "fedora", "amzn": "fedora", "opensuse": "suse"}
_NAMES = {"debian": "Debian, Ubuntu", "fedora": "Fedora, RHEL", "arch": "Arch", "macos": "macOS"}


def problem(machine: Machine, target: Target = CPU, *, root: Path = Path("/")) -> str | None:
    """Why the native library can't be built on this machine and what to install, or None. Compiles nothing."""
    if sources.find_sources() is None:
        return (
            "this installation of deploykit has no C++ sources: install it again from a wheel that has them"
        )
    return (
        compiler_problem(machine, root=root)
        or package_problem(machine, root=root)
        or (cuda_problem() if target.kind == "cuda" else None)
    )


def compiler_problem(machine: Machine, *, root: Path = Path("/")) -> str | None:
    """`problem` as far as the C++ compiler goes."""
    family = _family(machine.system, root)
    words = os.environ.get("CXX", "").split()
    if len(words) > 1:
        launcher = f", CMAKE_CXX_COMPILER_LAUNCHER={words[0]}" if "ccache" in words[0] else ""
        return f"CXX holds more than a compiler ({' '.join(words)}): set CXX={words[-1]}{launcher}"
    if machine.compiler is None:
        return f"no C++ compiler: {_how(family, 0)}"
    found = tools.compiler(machine.compiler)
    if found is None or not found.version:
        return f"{machine.compiler} doesn't work (it doesn't say its version): {_how(family, 0)}"
    kind = tools.compiler_kind(found)
    oldest = tools.OLDEST_COMPILERS.get(kind or "", ())
    if found.numbers and found.numbers < oldest:
        need = ".".join(map(str, oldest))
        have = ".".join(map(str, found.numbers))
        return f"{kind} {have} is too old, {need} is needed: install a newer one and set CXX"
    return None


def package_problem(machine: Machine, *, root: Path = Path("/")) -> str | None:
    """`problem` as far as CMake, Ninja, pybind11 and Python's headers go."""
    header = tools.python_header()
    if not header.is_file():
        return f"Python's headers are missing ({header}): {_how(_family(machine.system, root), 1)}"
    cmake_least, ninja_least = (".".join(map(str, v)) for v in (tools.OLDEST_CMAKE, tools.OLDEST_NINJA))
    missing = [
        (name, package)
        for found, name, package in (
            (tools.cmake(), f"CMake {cmake_least} or newer", "cmake"),
            (tools.ninja(), f"Ninja {ninja_least} or newer", "ninja"),
            (tools.pybind11_folder(), "pybind11", "pybind11"),
        )
        if found is None
    ]
    if not missing:
        return None
    names = " and ".join(name for name, _ in missing)
    return f"no {names}: pip install {' '.join(package for _, package in missing)}"


def cuda_problem() -> str | None:
    """`problem` as far as the CUDA toolkit goes."""
    source = sources.find_sources()
    if source is None or not (source / "cuda" / "CMakeLists.txt").is_file():
        return "this version of deploykit has no CUDA kernels: build with --cpu"
    if cuda.nvcc() is None:
        return "no nvcc: install NVIDIA's CUDA toolkit, or name its folder with CUDA_HOME"
    if cuda.needs_cublas(source) and cuda.cublas_root() is None:
        return f"cuBLAS's headers are missing: pip install {cuda.cublas_package()}"
    return None


def _how(family: str | None, which: int) -> str:
    if family:
        return _INSTALL[family][which]
    return "; ".join(f"{_INSTALL[name][which]} ({where})" for name, where in _NAMES.items())


def _family(system: str, root: Path) -> str | None:
    """Which of `_INSTALL` this machine is; None where it can't be told."""
    if system == "Darwin":
        return "macos"
    try:
        text = (root / "etc/os-release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = dict(line.partition("=")[::2] for line in text.splitlines())
    words = " ".join(fields.get(name, "").strip("\"'") for name in ("ID", "ID_LIKE")).lower().split()
    for word in words:
        family = _FAMILIES.get(word, word.partition("-")[0])
        family = _FAMILIES.get(family, family)
        if family in _INSTALL:
            return family
    return None
