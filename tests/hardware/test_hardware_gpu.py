"""GPUs through a made-up NVML: every failure becomes a text."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from deploykit.hardware.gpu import probe_gpus, visible


class NVMLError(Exception):
    pass


class FakeNVML(SimpleNamespace):
    """Two GPUs; `fail` names a function that raises."""

    def __init__(self, fail: str = "", count: int = 2) -> None:
        super().__init__(NVMLError=NVMLError, shut=0)
        self.fail, self.count = fail, count

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name == super().__getattribute__("fail"):

            def broken(*args: Any) -> None:
                raise NVMLError("Driver/library version mismatch")

            return broken
        return super().__getattribute__(name)

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None:
        self.shut += 1

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.95.05"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13020

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{'ab'[handle]}0000"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"Card {handle}"

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return (9, 0)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=100 + handle, free=50)


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeNVML) -> FakeNVML:
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    return fake


def test_all_gpus_with_driver_and_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, FakeNVML())
    gpus, error = probe_gpus({})
    assert error is None
    assert [(g.index, g.name, g.total_bytes, g.free_bytes) for g in gpus] == [
        (0, "Card 0", 100, 50),
        (1, "Card 1", 101, 50),
    ]
    assert {(g.driver, g.cuda_driver, g.compute_capability) for g in gpus} == {("580.95.05", "13.2", (9, 0))}
    assert fake.shut == 1


@pytest.mark.parametrize("name", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_failing_driver_is_a_text(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch, FakeNVML(fail=name))
    assert probe_gpus({}) == ((), "NVML: Driver/library version mismatch")


@pytest.mark.parametrize(
    "name", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"]
)
def test_gpus_that_cannot_be_read_are_each_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch, FakeNVML(fail=name))
    gpus, error = probe_gpus({})
    assert gpus == ()
    each = [f"GPU {i}: Driver/library version mismatch" for i in range(2)]
    assert error == f"NVML: {'; '.join(each)}"


def test_versions_that_cannot_be_asked_stay_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNVML(fail="nvmlSystemGetCudaDriverVersion_v2"))
    gpus, error = probe_gpus({})
    assert error is None
    assert [g.cuda_driver for g in gpus] == [None, None]


def test_no_gpu_and_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNVML(count=0))
    assert probe_gpus({}) == ((), "NVML: the driver is loaded and finds no GPU")
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    assert probe_gpus({}) == ((), "the package nvidia-ml-py is not installed")


def test_cuda_visible_devices_chooses_and_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNVML())
    gpus, _ = probe_gpus({"CUDA_VISIBLE_DEVICES": "1"})
    assert [(g.index, g.name) for g in gpus] == [(0, "Card 1")]
    gpus, error = probe_gpus({"CUDA_VISIBLE_DEVICES": "-1"})
    assert gpus == ()
    assert error == "CUDA_VISIBLE_DEVICES='-1' hides all 2 GPUs"


@pytest.mark.parametrize(
    ("spec", "chosen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("0, 1", [0, 1]),
        ("0,7,1", [0]),
        ("-1,0", []),
        ("GPU-b,0", [1, 0]),
        ("GPU-x", []),
        ("0,0", [0]),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(spec: str | None, chosen: list[int]) -> None:
    assert visible(["GPU-a1", "GPU-b2", "GPU-c3"], spec) == chosen
