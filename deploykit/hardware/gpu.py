"""NVIDIA GPUs through NVML (no CUDA context is made, torch is not imported)."""

from __future__ import annotations

import contextlib
import os
from typing import Any, NamedTuple

from deploykit.hardware.machine import GPU
from deploykit.hardware.memory import probe_memory

_NOT_SUPPORTED = 3  # NVML_ERROR_NOT_SUPPORTED


class Card(NamedTuple):
    """A GPU as NVML lists it; `handle` is None where it can't be asked (it fell off the bus): `problem` says why."""

    handle: Any
    uuid: str
    problem: str | None = None


def cards(nvml: Any) -> list[Card]:
    """Every GPU in NVML's order: one that can't be asked keeps its place, and the others stay."""
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            found.append(Card(handle, _text(nvml.nvmlDeviceGetUUID(handle))))
        except nvml.NVMLError as error:
            found.append(Card(None, "", f"GPU {index}: {error}"))
    return found


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


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    """(total, free) bytes: the system's, where a GPU has none of its own and says so (GB10, Jetson)."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        if getattr(error, "value", None) != _NOT_SUPPORTED:
            raise
        return probe_memory()
    return int(memory.total), int(memory.free)


def _read(nvml: Any, handle: Any, index: int, driver: str | None, cuda: str | None) -> GPU:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    total, free = _memory(nvml, handle)
    return GPU(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        compute_capability=(int(major), int(minor)),
        total_bytes=total,
        free_bytes=free,
        driver=driver,
        cuda_driver=cuda,
    )


def probe_gpus(environ: dict[str, str] | None = None) -> tuple[tuple[GPU, ...], str | None]:
    """The visible GPUs, and why there is none or why some could not be asked. Never raises.

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
        found = cards(nvml)
        if not found:
            return (), "NVML: the driver is loaded and finds no GPU"
        chosen = visible([card.uuid for card in found], env.get("CUDA_VISIBLE_DEVICES"))
        if not chosen:
            value = env.get("CUDA_VISIBLE_DEVICES", "")
            lost = "".join(f"; NVML: {card.problem}" for card in found if card.problem)
            return (), f"CUDA_VISIBLE_DEVICES={value!r} hides all {len(found)} GPUs{lost}"
        gpus: list[GPU] = []
        problems: list[str] = []
        for index, nvml_index in enumerate(chosen):
            card = found[nvml_index]
            try:
                if card.problem is None:
                    gpus.append(_read(nvml, card.handle, index, driver, cuda))
                else:
                    problems.append(card.problem)
            except nvml.NVMLError as error:
                problems.append(f"GPU {nvml_index}: {error}")
        return tuple(gpus), f"NVML: {'; '.join(problems)}" if problems else None
    except Exception as error:
        return (), f"NVML: {error}"
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()
