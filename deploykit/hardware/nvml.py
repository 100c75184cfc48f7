"""How NVIDIA's GPUs are doing, through NVML: who holds memory, errors, modes, clocks, and what joins them.

Everything that a GPU, a driver or a container doesn't tell is None. Nothing here is needed to plan; `gpu.py` asks
for that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from deploykit.hardware.gpu import cards, visible

T = TypeVar("T")

# NVML_P2P_CAPS_INDEX_*, NVML_TOPOLOGY_* and the reasons of lower clocks, by their values: pynvml spells the first of
# them as a tuple (`NVML_P2P_CAPS_INDEX_READ = 0,`), which its own function refuses, and renames the last ones.
_P2P_READ, _P2P_NVLINK = 0, 2
_P2P_STATUS = {
    0: "ok",
    1: "the chipset doesn't support it",
    2: "the GPU doesn't support it",
    3: "the I/O hub between them doesn't support it",
    4: "a driver setting (regkey) turns it off",
    5: "not supported",
}
_ANCESTORS = {0: "PSB", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}  # nvidia-smi's words
_CLOCK_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x400: "reliability",
}
_IDLE = 0x1
_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}
_SWITCH = 2  # NVML_NVLINK_DEVICE_TYPE_SWITCH
_CORRECTED, _UNCORRECTED = 0, 1
_VOLATILE, _AGGREGATE = 0, 1
_MEMORY_V2 = 0x02000028  # nvmlMemory_v2: tells what the driver reserves apart from what is used


class GpuProcess(msgspec.Struct, frozen=True):
    """A process on a GPU. `bytes` is None where the driver doesn't say (Windows, some containers)."""

    pid: int
    name: str
    bytes: int | None


class GpuState(msgspec.Struct, frozen=True, kw_only=True):
    """One visible GPU. `index` is CUDA's, `nvml_index` what nvidia-smi calls it."""

    index: int
    nvml_index: int
    name: str
    bus_id: str = ""  # 00000000:01:00.0
    compute_capability: tuple[int, int] | None = None
    total_bytes: int = 0
    free_bytes: int = 0
    reserved_bytes: int | None = None  # the driver's own
    processes: tuple[GpuProcess, ...] | None = None
    ecc: bool | None = None
    ecc_pending: bool | None = None  # after the next reset
    corrected: int | None = None  # memory errors since the driver was loaded
    uncorrected: int | None = None
    lifetime_uncorrected: int | None = None
    rows_pending: bool | None = None  # a reset will replace faulty memory
    rows_failed: bool | None = None  # faulty memory that can't be replaced
    mig: bool | None = None
    compute_mode: str | None = None  # default | exclusive process | prohibited
    persistence: bool | None = None
    idle: bool | None = None
    slowed_by: tuple[str, ...] | None = None
    temperature: int | None = None  # degrees Celsius
    power_w: float | None = None
    power_limit_w: float | None = None
    pcie_generation: tuple[int, int] | None = None  # now, the most that card and slot do
    pcie_width: tuple[int, int] | None = None
    nvlinks: int | None = None  # active links


class GpuLink(msgspec.Struct, frozen=True, kw_only=True):
    """What joins two visible GPUs, by their `index`."""

    a: int
    b: int
    path: str  # PSB | PIX | PXB | PHB | NODE | SYS: what stands between them on PCIe; "" unknown
    nvlinks: int = 0
    p2p: str = ""  # ok, or why one can't read the other's memory; "" unknown

    @property
    def label(self) -> str:
        """NV18, PIX, …: as `nvidia-smi topo -m` writes it."""
        return f"NV{self.nvlinks}" if self.nvlinks else self.path or "?"


class GpuStates(msgspec.Struct, frozen=True, kw_only=True):
    """`errors` are the driver's words about GPUs that could not be asked."""

    gpus: tuple[GpuState, ...] = ()
    links: tuple[GpuLink, ...] = ()
    errors: tuple[str, ...] = ()


def probe_states(environ: Mapping[str, str] | None = None) -> GpuStates:
    """The state of every visible GPU. Never raises; a driver that hangs hangs here too."""
    env = os.environ if environ is None else environ
    try:
        import pynvml as nvml
    except ImportError:
        return GpuStates(errors=("the package nvidia-ml-py is not installed",))
    try:
        nvml.nvmlInit()
    except Exception as error:
        return GpuStates(errors=(f"NVML: {error}",))
    try:
        return _states(nvml, env)
    except Exception as error:
        return GpuStates(errors=(f"NVML: {error}",))
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()


def _states(nvml: Any, env: Mapping[str, str]) -> GpuStates:
    errors: list[str] = []
    gpus = []
    found = cards(nvml)
    handles = [card.handle for card in found]
    chosen = visible([card.uuid for card in found], env.get("CUDA_VISIBLE_DEVICES"))
    for index, nvml_index in enumerate(chosen):
        if (problem := found[nvml_index].problem) is not None:
            errors.append(problem)
            continue
        try:
            gpus.append(_state(nvml, handles[nvml_index], index, nvml_index))
        except nvml.NVMLError as error:
            errors.append(f"GPU {nvml_index}: {error}")
    links = [
        _link(nvml, handles, a, b, errors)
        for i, a in enumerate(gpus)
        for b in gpus[i + 1 :]
    ]  # fmt: skip
    return GpuStates(gpus=tuple(gpus), links=tuple(links), errors=tuple(errors))


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _maybe(nvml: Any, call: Callable[[], T]) -> T | None:
    """What `call` gives, or None where this driver or this GPU has no answer."""
    try:
        return call()
    except (nvml.NVMLError, AttributeError):
        return None


def _state(nvml: Any, handle: Any, index: int, nvml_index: int) -> GpuState:
    """Raises NVMLError for a GPU that doesn't even say its name."""

    def ask(name: str, *args: Any) -> Any:
        return _maybe(nvml, lambda: getattr(nvml, name)(handle, *args))

    def counted(kind: int, since: int) -> int | None:
        count = ask("nvmlDeviceGetTotalEccErrors", kind, since)
        return None if count is None else int(count)

    def both(now: str, most: str) -> tuple[int, int] | None:
        values = (ask(now), ask(most))
        return None if None in values else (int(values[0]), int(values[1]))

    name = _text(nvml.nvmlDeviceGetName(handle))
    memory = ask("nvmlDeviceGetMemoryInfo", _MEMORY_V2) or ask("nvmlDeviceGetMemoryInfo")
    pci = ask("nvmlDeviceGetPciInfo")
    ecc, mig = ask("nvmlDeviceGetEccMode"), ask("nvmlDeviceGetMigMode")
    rows = ask("nvmlDeviceGetRemappedRows")  # corrected, uncorrected, pending, failed
    pages = ask("nvmlDeviceGetRetiredPagesPendingStatus")  # before Ampere
    mode = ask("nvmlDeviceGetComputeMode")
    persistence = ask("nvmlDeviceGetPersistenceMode")
    reasons = ask("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:  # drivers before 535
        reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    power, limit = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetEnforcedPowerLimit")
    pending = None
    if rows is not None or pages is not None:
        pending = bool(rows and rows[2]) or bool(pages)
    return GpuState(
        index=index,
        nvml_index=nvml_index,
        name=name,
        bus_id=_text(pci.busId) if pci is not None else "",
        compute_capability=ask("nvmlDeviceGetCudaComputeCapability"),
        total_bytes=int(memory.total) if memory is not None else 0,
        free_bytes=int(memory.free) if memory is not None else 0,
        reserved_bytes=int(memory.reserved) if memory is not None and hasattr(memory, "reserved") else None,
        processes=_processes(nvml, handle),
        ecc=None if ecc is None else bool(ecc[0]),
        ecc_pending=None if ecc is None else bool(ecc[1]),
        corrected=counted(_CORRECTED, _VOLATILE),
        uncorrected=counted(_UNCORRECTED, _VOLATILE),
        lifetime_uncorrected=counted(_UNCORRECTED, _AGGREGATE),
        rows_pending=pending,
        rows_failed=None if rows is None else bool(rows[3]),
        mig=None if mig is None else bool(mig[0]),
        compute_mode=None if mode is None else _MODES.get(int(mode), f"mode {mode}"),
        persistence=None if persistence is None else bool(persistence),
        idle=None if reasons is None else bool(reasons & _IDLE),
        slowed_by=None
        if reasons is None
        else tuple(words for bit, words in _CLOCK_REASONS.items() if reasons & bit),
        temperature=ask("nvmlDeviceGetTemperature", 0),
        power_w=None if power is None else power / 1000,
        power_limit_w=None if limit is None else limit / 1000,
        pcie_generation=both("nvmlDeviceGetCurrPcieLinkGeneration", "nvmlDeviceGetMaxPcieLinkGeneration"),
        pcie_width=both("nvmlDeviceGetCurrPcieLinkWidth", "nvmlDeviceGetMaxPcieLinkWidth"),
        nvlinks=_active_links(nvml, handle),
    )


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...] | None:
    """Those that compute and those that draw, each once; None where the driver doesn't list them."""
    found: dict[int, GpuProcess] = {}
    known = False
    for name in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        listed = _maybe(nvml, lambda name=name: getattr(nvml, name)(handle))  # type: ignore[misc]
        if listed is None:
            continue
        known = True
        for one in listed:
            pid = int(one.pid)
            called = _maybe(nvml, lambda pid=pid: _text(nvml.nvmlSystemGetProcessName(pid)))  # type: ignore[misc]
            used = None if one.usedGpuMemory is None else int(one.usedGpuMemory)
            found[pid] = GpuProcess(pid, called or "", used)
    return tuple(found.values()) if known else None


def _links_of(nvml: Any, handle: Any) -> list[int]:
    """Numbers of the active NVLinks. Links beyond those that a GPU has are errors, and say nothing."""
    links = range(int(getattr(nvml, "NVML_NVLINK_MAX_LINKS", 18)))
    return [i for i in links if _maybe(nvml, lambda i=i: nvml.nvmlDeviceGetNvLinkState(handle, i))]  # type: ignore[misc]


def _active_links(nvml: Any, handle: Any) -> int | None:
    if _maybe(nvml, lambda: nvml.nvmlDeviceGetNvLinkState(handle, 0)) is None:
        return None  # no NVLink on this card
    return len(_links_of(nvml, handle))


def _link(nvml: Any, handles: list[Any], a: GpuState, b: GpuState, errors: list[str]) -> GpuLink:
    first, second = handles[a.nvml_index], handles[b.nvml_index]
    try:
        level = nvml.nvmlDeviceGetTopologyCommonAncestor(first, second)
        path = _ANCESTORS.get(int(level), "")
    except nvml.NVMLError as error:
        errors.append(f"GPU {a.nvml_index} and {b.nvml_index}: {error}")
        path = ""
    status = _maybe(nvml, lambda: nvml.nvmlDeviceGetP2PStatus(first, second, _P2P_READ))
    return GpuLink(
        a=a.index,
        b=b.index,
        path=path,
        nvlinks=_links_between(nvml, first, second, a, b),
        p2p="" if status is None else _P2P_STATUS.get(int(status), ""),
    )


def _links_between(nvml: Any, first: Any, second: Any, a: GpuState, b: GpuState) -> int:
    """NVLinks that lead from one to the other, directly or, all of them, through switches."""
    if not a.nvlinks or not b.nvlinks:
        return 0
    direct = through = 0
    for link in _links_of(nvml, first):
        kind = _maybe(nvml, lambda link=link: nvml.nvmlDeviceGetNvLinkRemoteDeviceType(first, link))  # type: ignore[misc]
        if kind == _SWITCH:
            through += 1
            continue
        there = _maybe(nvml, lambda link=link: nvml.nvmlDeviceGetNvLinkRemotePciInfo(first, link))  # type: ignore[misc]
        direct += there is not None and _text(there.busId).lower() == b.bus_id.lower()
    if direct:
        return direct
    joined = _maybe(nvml, lambda: nvml.nvmlDeviceGetP2PStatus(first, second, _P2P_NVLINK)) == 0
    return min(through, b.nvlinks) if joined else 0
