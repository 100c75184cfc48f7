"""NVIDIA GPUs through NVML (no CUDA context is made, torch is not imported)."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from deploykit.hardware.machine import GPU


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _cuda_version(number: int) -> str | None:
    """13020 -> "13.2"."""
    return f"{number // 1000}.{number % 1000 // 10}" if number > 0 else None


def visible(uuids: list[str], spec: str | None) -> list[int]:
    """Which of the GPUs (NVML's order) CUDA_VISIBLE_DEVICES leaves, in the order it names them.

    As CUDA does: names are indexes or prefixes of UUIDs, and the first that is unknown ends the list.
    """
    if spec is None:
        return list(range(len(uuids)))
    chosen: list[int] = []
    for word in (part.strip() for part in spec.split(",")):
        if word.isdigit() and int(word) < len(uuids):
            index = int(word)
        else:
            matches = [i for i, uuid in enumerate(uuids) if word.startswith("GPU-") and uuid.startswith(word)]
            if len(matches) != 1:
                break
            index = matches[0]
        if index in chosen:
            break
        chosen.append(index)
    return chosen


def _read(nvml: Any, handle: Any, index: int, driver: str | None, cuda: str | None) -> GPU:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return GPU(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        compute_capability=(int(major), int(minor)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        driver=driver,
        cuda_driver=cuda,
    )


def probe_gpus(environ: dict[str, str] | None = None) -> tuple[tuple[GPU, ...], str | None]:
    """The visible GPUs, and why there is none or why one could not be asked. Never raises.

    `GPU.index` counts the visible ones in NVML's order, which is CUDA's under CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    env = os.environ if environ is None else environ
    try:
        import pynvml as nvml
    except ImportError:
        return (), "the package nvidia-ml-py is not installed"
    try:
        nvml.nvmlInit()
    except Exception as error:
        return (), f"NVML: {error}"
    try:
        driver = cuda = None
        with contextlib.suppress(nvml.NVMLError):
            driver = _text(nvml.nvmlSystemGetDriverVersion())
        with contextlib.suppress(nvml.NVMLError):
            cuda = _cuda_version(int(nvml.nvmlSystemGetCudaDriverVersion_v2()))
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        if not handles:
            return (), "NVML: the driver is loaded and finds no GPU"
        chosen = visible([_text(nvml.nvmlDeviceGetUUID(h)) for h in handles], env.get("CUDA_VISIBLE_DEVICES"))
        if not chosen:
            value = env.get("CUDA_VISIBLE_DEVICES", "")
            return (), f"CUDA_VISIBLE_DEVICES={value!r} hides all {len(handles)} GPUs"
        gpus: list[GPU] = []
        problem = None
        for index, nvml_index in enumerate(chosen):
            try:
                gpus.append(_read(nvml, handles[nvml_index], index, driver, cuda))
            except nvml.NVMLError as error:
                problem = f"NVML: GPU {nvml_index}: {error}"
        return tuple(gpus), problem
    except Exception as error:
        return (), f"NVML: {error}"
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()
