"""One look at the whole machine. Takes milliseconds, never raises, imports neither torch nor transformers."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deploykit.hardware.cpu import probe_cpu
from deploykit.hardware.disk import probe_disk
from deploykit.hardware.gpu import probe_gpus
from deploykit.hardware.machine import CPU, GPU, Machine
from deploykit.hardware.memory import probe_memory
from deploykit.hardware.toolchain import (
    find_compiler,
    find_nvcc,
    package_version,
    toolkit_version,
    torch_cuda,
)

T = TypeVar("T")


def _or(ask: Callable[[], T], unknown: T) -> T:
    """A machine odd enough to break one probe must still be described by the others."""
    try:
        return ask()
    except Exception:
        return unknown


def probe(disk: Path | str = ".") -> Machine:
    """Describe this machine; `disk` is where free space is measured (it need not exist)."""
    no_gpus: tuple[tuple[GPU, ...], str | None] = ((), "the GPUs could not be asked")
    gpus, gpu_error = _or(probe_gpus, no_gpus)
    total, available = _or(probe_memory, (0, 0))
    nvcc = _or(find_nvcc, None)
    return Machine(
        system=platform.system(),
        arch=platform.machine(),
        cpu=_or(probe_cpu, CPU(model="unknown", cores=1)),
        memory_total=total,
        memory_available=available,
        disk_free=_or(lambda: probe_disk(Path(disk)), 0),
        gpus=gpus,
        gpu_error=gpu_error,
        python=platform.python_version(),
        torch=_or(lambda: package_version("torch"), None),
        torch_cuda=_or(torch_cuda, None),
        transformers=_or(lambda: package_version("transformers"), None),
        compiler=_or(find_compiler, None),
        nvcc=nvcc,
        toolkit=_or(lambda: toolkit_version(nvcc), None),
    )
