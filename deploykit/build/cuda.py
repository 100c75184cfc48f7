"""The CUDA toolkit: nvcc, the architectures it knows, and cuBLAS's headers."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from deploykit.errors import ConfigError
from deploykit.hardware.toolchain import find_nvcc, package_version

_ARCH = re.compile(r"(\d{2,3})[af]?")
_RELEASE = re.compile(r"release (\d+)\.(\d+)")
_CUBLAS_HEADER = "include/cublas_v2.h"


def nvcc() -> str | None:
    """$CUDA_HOME, PATH, /usr/local/cuda, else the Python package nvidia-cuda-nvcc."""
    if found := find_nvcc():
        return found
    for folder in _packaged():
        if found := shutil.which("nvcc", path=str(folder / "bin")):
            return found
    return None


def _packaged() -> list[Path]:
    """Folders of NVIDIA's Python packages: nvidia/cu13 and its like, nvidia/cublas and its like before CUDA 13."""
    spec = importlib.util.find_spec("nvidia")  # a namespace: every folder of it that Python finds
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    return [folder for root in roots for folder in sorted(root.glob("*"), reverse=True)]


@functools.lru_cache(maxsize=8)
def _say(nvcc: str, option: str) -> str:
    try:
        done = subprocess.run([nvcc, option], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def release(nvcc: str) -> tuple[int, int] | None:
    """CUDA's version."""
    match = _RELEASE.search(_say(nvcc, "--version"))
    return (int(match[1]), int(match[2])) if match else None


def known_archs(nvcc: str) -> list[int]:
    """Architectures that nvcc compiles for: 75, 80, 90, …"""
    return sorted(int(number) for number in re.findall(r"compute_(\d+)", _say(nvcc, "--list-gpu-arch")))


def identity() -> str:
    """Path and version of nvcc and the version of cuBLAS's package, for the key of a build."""
    found = nvcc()
    if found is None:
        return ""
    lines = _say(found, "--version").strip().splitlines()
    cublas = package_version(cublas_package()) or ""
    return f"{os.path.realpath(found)} {lines[-1] if lines else ''} {cublas}".strip()


def check_arch(arch: str) -> None:
    """Raises ConfigError where `arch` is none, or one that this toolkit doesn't compile for."""
    match = _ARCH.fullmatch(arch)
    if match is None:
        raise ConfigError(
            f"{arch!r} is no CUDA architecture",
            fix="give compute capability without the dot: 80, 86, 89, 90a, 100a, 120a",
        )
    found = nvcc()
    if found is None:
        return  # problem() says so, and what to do
    known = known_archs(found)
    if not known or int(match[1]) in known:
        return
    version = release(found)
    why = f"CUDA {'.'.join(map(str, version)) if version else 'of this nvcc'} compiles for {', '.join(map(str, known))}"
    if int(match[1]) < known[0]:
        why += "; support for older GPUs was removed (7.0, Volta, with CUDA 13)"
        fix = "use a toolkit that has it (CUDA 12.9 for 70), named by CUDA_HOME"
    else:
        fix = "use a newer CUDA toolkit, named by CUDA_HOME"
    raise ConfigError(f"nvcc doesn't compile for sm_{arch}", where=found, why=why, fix=fix)


def cublas_root() -> Path | None:
    """A folder with include/cublas_v2.h: the toolkit's, else the one of the package nvidia-cublas. None without one."""
    found = nvcc()
    if found is None:
        return None
    return next((f for f in [*_toolkits(found), *_packaged()] if (f / _CUBLAS_HEADER).is_file()), None)


def _toolkits(nvcc: str) -> list[Path]:
    """The folder nvcc lies in, and what it says of itself where it is started through a script."""
    folders = [Path(os.path.realpath(nvcc)).parent.parent]
    try:
        done = subprocess.run(
            [nvcc, "--dryrun", "-x", "cu", "/dev/null"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return folders
    if top := re.search(r"^#\$ TOP=(.+)$", done.stderr, re.MULTILINE):
        folders.append(Path(top[1].strip()))
    return folders


def needs_cublas(source: Path) -> bool:
    """Whether the CUDA sources include one of cuBLAS's headers."""
    return any(
        b"<cublas" in file.read_bytes() for file in (source / "cuda").rglob("*.[ch]*") if file.is_file()
    )


def cublas_package() -> str:
    """The Python package that has the headers for this toolkit."""
    version = release(found) if (found := nvcc()) else None
    return f"nvidia-cublas-cu{version[0]}" if version and version[0] < 13 else "nvidia-cublas"
