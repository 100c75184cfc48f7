"""A stand-in for the module pynvml: its own constants, errors and signatures, with cards that a test describes.

Every function is one that the real module has, and takes what the real one takes: numbers where ctypes wants numbers.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pynvml as real

GIB = 1 << 30


@dataclass
class Card:
    """One GPU; a value of None is what NVML calls Not Supported. Defaults are those of an idle H100."""

    name: str = "NVIDIA H100 80GB HBM3"
    capability: tuple[int, int] = (9, 0)
    total: int | None = 80 * GIB
    used: int = 0
    reserved: int = GIB // 2
    processes: list[tuple[int, str, int | None]] = field(default_factory=list)
    ecc: list[int] | None = field(default_factory=lambda: [1, 1])
    errors: dict[tuple[int, int], int] = field(default_factory=dict)  # (type, counter) -> count
    rows: tuple[int, int, int, int] | None = (0, 0, 0, 0)
    mig: list[int] | None = field(default_factory=lambda: [0, 0])
    mode: int = 0
    persistence: int = 1
    reasons: int = 0x1
    temperature: int = 31
    power: int = 70_000  # milliwatts
    limit: int = 700_000
    pcie: tuple[int, int, int, int] = (5, 5, 16, 16)  # generation now and at most, width now and at most
    links: dict[int, tuple[int, str]] = field(
        default_factory=dict
    )  # number -> (kind of the other end, its bus id)
    lost: bool = False


class FakeNVML(types.ModuleType):
    """`paths` and `p2p` are by pair of cards, (0, 1); what isn't given is SYS (50) and all right (0)."""

    def __init__(
        self,
        *cards: Card,
        paths: dict[tuple[int, int], int] | None = None,
        p2p: dict[tuple[int, int], int] | None = None,
        old: bool = False,
        init: int = 0,
    ) -> None:
        super().__init__("pynvml")
        self.cards, self.paths, self.p2p, self.init, self.opened = (
            list(cards),
            paths or {},
            p2p or {},
            init,
            0,
        )
        for name in dir(real):
            if (
                name.startswith(("NVML_", "nvmlClocks"))
                or name == "NVMLError"
                or name.startswith("NVMLError_")
            ):
                setattr(self, name, getattr(real, name))
        for name, function in list(vars(FakeNVML).items()):
            if name.startswith("nvml"):
                setattr(self, name, self._checked(name, function.__get__(self)))
        if old:  # a driver before 535: the library lacks the newer name
            self.nvmlDeviceGetCurrentClocksEventReasons = self._missing

    def _checked(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(getattr(real, name))

        def call(*args: Any) -> Any:
            signature.bind(*args)  # the arguments that the real one takes
            for arg in args:
                if not isinstance(arg, int | Handle):  # a tuple is what NVML_P2P_CAPS_INDEX_READ really is
                    raise TypeError(f"{name}: ctypes can't convert {arg!r}")
            if args and isinstance(args[0], Handle) and self.cards[args[0].index].lost:
                raise real.NVMLError(real.NVML_ERROR_GPU_IS_LOST)
            if not self.opened and name not in ("nvmlInit", "nvmlShutdown"):
                raise real.NVMLError(real.NVML_ERROR_UNINITIALIZED)
            return function(*args)

        return call

    def _missing(self, *_: Any) -> Any:
        raise real.NVMLError(real.NVML_ERROR_FUNCTION_NOT_FOUND)

    @staticmethod
    def _or_unsupported(value: Any) -> Any:
        if value is None:
            raise real.NVMLError(real.NVML_ERROR_NOT_SUPPORTED)
        return value

    # ------------------------------------------------------------ what pynvml has

    def nvmlInit(self) -> None:
        if self.init:
            raise real.NVMLError(self.init)
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.159.04"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13000

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        for card in self.cards:
            for known, name, _ in card.processes:
                if known == pid:
                    return name
        raise real.NVMLError(real.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:
        if self.cards[index].lost:
            raise real.NVMLError(real.NVML_ERROR_GPU_IS_LOST)
        return Handle(index)

    def nvmlDeviceGetUUID(self, handle: Handle) -> str:
        return f"GPU-{handle.index:08d}-0000-0000-0000-000000000000"

    def nvmlDeviceGetName(self, handle: Handle) -> str:
        return self.cards[handle.index].name

    def nvmlDeviceGetCudaComputeCapability(self, handle: Handle) -> tuple[int, int]:
        return self.cards[handle.index].capability

    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> Any:
        card = self.cards[handle.index]
        self._or_unsupported(card.total)
        memory = real.c_nvmlMemory_v2_t() if version else real.c_nvmlMemory_t()
        memory.total, memory.used = card.total, card.used
        memory.free = card.total - card.used - card.reserved
        if version:
            assert version == real.nvmlMemory_v2
            memory.reserved = card.reserved
        return memory

    def nvmlDeviceGetPciInfo(self, handle: Handle) -> Any:
        info = real.nvmlPciInfo_t()
        info.busId = bus_id(handle.index)
        return info

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> list[Any]:
        found = []
        for pid, _, used in self.cards[handle.index].processes:
            raw = real.c_nvmlProcessInfo_v3_t(
                pid=pid, usedGpuMemory=real.NVML_VALUE_NOT_AVAILABLE_ulonglong.value if used is None else used
            )
            one = real.nvmlStructToFriendlyObject(raw)
            if used is None:
                one.usedGpuMemory = None  # as pynvml does it
            found.append(one)
        return found

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Handle) -> list[Any]:
        return []

    def nvmlDeviceGetEccMode(self, handle: Handle) -> list[int]:
        return self._or_unsupported(self.cards[handle.index].ecc)

    def nvmlDeviceGetTotalEccErrors(self, handle: Handle, errorType: int, counterType: int) -> int:
        self._or_unsupported(self.cards[handle.index].ecc)
        return self.cards[handle.index].errors.get((errorType, counterType), 0)

    def nvmlDeviceGetRemappedRows(self, handle: Handle) -> tuple[int, ...]:
        return self._or_unsupported(self.cards[handle.index].rows)

    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle: Handle) -> int:
        return self._or_unsupported(None)

    def nvmlDeviceGetMigMode(self, handle: Handle) -> list[int]:
        return self._or_unsupported(self.cards[handle.index].mig)

    def nvmlDeviceGetComputeMode(self, handle: Handle) -> int:
        return self.cards[handle.index].mode

    def nvmlDeviceGetPersistenceMode(self, handle: Handle) -> int:
        return self.cards[handle.index].persistence

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Handle) -> int:
        return self.cards[handle.index].reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Handle) -> int:
        return self.cards[handle.index].reasons

    def nvmlDeviceGetTemperature(self, handle: Handle, sensor: int) -> int:
        assert sensor == real.NVML_TEMPERATURE_GPU
        return self.cards[handle.index].temperature

    def nvmlDeviceGetPowerUsage(self, handle: Handle) -> int:
        return self.cards[handle.index].power

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Handle) -> int:
        return self.cards[handle.index].limit

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle: Handle) -> int:
        return self.cards[handle.index].pcie[0]

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: Handle) -> int:
        return self.cards[handle.index].pcie[1]

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: Handle) -> int:
        return self.cards[handle.index].pcie[2]

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: Handle) -> int:
        return self.cards[handle.index].pcie[3]

    def nvmlDeviceGetNvLinkState(self, device: Handle, link: int) -> int:
        links = self.cards[device.index].links
        if not links:
            raise real.NVMLError(real.NVML_ERROR_NOT_SUPPORTED)
        if link > max(links):
            raise real.NVMLError(real.NVML_ERROR_INVALID_ARGUMENT)
        return int(link in links)

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, handle: Handle, link: int) -> int:
        return self.cards[handle.index].links[link][0]

    def nvmlDeviceGetNvLinkRemotePciInfo(self, device: Handle, link: int) -> Any:
        info = real.nvmlPciInfo_t()
        info.busId = self.cards[device.index].links[link][1]
        return info

    def nvmlDeviceGetTopologyCommonAncestor(self, device1: Handle, device2: Handle) -> int:
        return self.paths.get((device1.index, device2.index), real.NVML_TOPOLOGY_SYSTEM)

    def nvmlDeviceGetP2PStatus(self, device1: Handle, device2: Handle, p2pIndex: int) -> int:
        if p2pIndex == real.NVML_P2P_CAPS_INDEX_NVLINK:
            joined = self.cards[device1.index].links and self.cards[device2.index].links
            return real.NVML_P2P_STATUS_OK if joined else real.NVML_P2P_STATUS_NOT_SUPPORTED
        return self.p2p.get((device1.index, device2.index), real.NVML_P2P_STATUS_OK)


@dataclass(frozen=True)
class Handle:
    index: int


def bus_id(index: int) -> str:
    return f"00000000:{index + 1:02X}:00.0"


def to_switch(count: int) -> dict[int, tuple[int, str]]:
    """NVLinks as in a machine with NVSwitches."""
    return dict.fromkeys(range(count), (real.NVML_NVLINK_DEVICE_TYPE_SWITCH, "00000000:C0:00.0"))


def to_card(index: int, count: int) -> dict[int, tuple[int, str]]:
    """NVLinks to another card, as a bridge makes them."""
    return dict.fromkeys(range(count), (real.NVML_NVLINK_DEVICE_TYPE_GPU, bus_id(index)))
