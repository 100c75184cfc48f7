"""Every check on machines that are well and on machines that are not: a failure names its repair."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_machines import GIB, gpu, machine

from deploykit.doctor import Context, hardware, serving, software, system
from deploykit.doctor.check import Finding
from deploykit.hardware.machine import CPU, GPU

Make = Callable[..., Any]


def l4(**changes: Any) -> GPU:
    return gpu(**({"name": "NVIDIA L4", "capability": (8, 9), "total": 24 * GIB} | changes))


def healthy(finding: Finding) -> None:
    assert finding.status == "ok", finding
    assert finding.found
    assert not finding.fix


def sick(finding: Finding, status: str, *words: str) -> None:
    assert finding.status == status, finding
    assert finding.why
    for word in words:
        assert word in f"{finding.found} {finding.why} {finding.fix}", finding


# ---------------------------------------------------------------- hardware


def test_cpu(context: Make) -> None:
    finding = hardware.cpu(context())
    healthy(finding)
    assert "bfloat16" in finding.found
    old = machine(cpu=CPU(model="Core 2", cores=1))
    sick(hardware.cpu(context(machine=old)), "warn", "AVX2", "1 core,", "no bfloat16")


def test_memory(context: Make) -> None:
    healthy(hardware.memory(context()))
    sick(hardware.memory(context(machine=machine(memory_available=GIB // 2))), "warn", "512.0 MiB")
    assert hardware.memory(context(machine=machine(memory_total=0))).status == "warn"


def test_disk(context: Make) -> None:
    healthy(hardware.disk(context()))
    sick(hardware.disk(context(machine=machine(disk_free=5 * GIB))), "warn", "DEPLOYKIT_CACHE")
    sick(hardware.disk(context(machine=machine(disk_free=GIB // 2))), "fail", "DEPLOYKIT_CACHE")


def put_gpu_on_the_bus(root: Path) -> None:
    device = root / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")


def test_a_machine_without_a_gpu_is_no_fault(context: Make) -> None:
    assert hardware.gpu(context()).status == "skip"
    assert hardware.gpu_torch(context()).status == "skip"


def test_a_gpu_that_the_driver_does_not_reach_is(context: Make) -> None:
    here = context()
    put_gpu_on_the_bus(here.root)
    sick(hardware.gpu(here), "fail", "1 NVIDIA GPU on the bus", "driver", "--gpus all")


def test_hidden_gpus(context: Make) -> None:
    here = context(machine=machine(gpu_error="CUDA_VISIBLE_DEVICES='' hides all 2 GPUs"))
    sick(hardware.gpu(here), "warn", "hides all 2 GPUs", "unset CUDA_VISIBLE_DEVICES")


def test_gpus_that_work(context: Make) -> None:
    good = machine(gpus=(l4(),), gpu_error=None, torch="2.13.0+cu130", torch_cuda="13.0")
    healthy(hardware.gpu(context(machine=good)))
    healthy(hardware.gpu_torch(context(machine=good)))
    busy = machine(gpus=(l4(free_bytes=GIB),), gpu_error=None)
    sick(hardware.gpu(context(machine=busy)), "warn", "GPU 0", "nvidia-smi")
    partly = machine(gpus=(l4(),), gpu_error="NVML: GPU 1: Unknown Error")
    sick(hardware.gpu(context(machine=partly)), "warn", "GPU 1: Unknown Error")


@pytest.mark.parametrize(
    ("cuda_driver", "fix"),
    [
        ("13.0", "whl/cu130"),
        ("12.9", "whl/cu128"),
        ("12.6", "whl/cu126"),
        ("12.2", "update NVIDIA's driver"),
        (None, "whl/cu130"),
    ],
)
def test_a_cpu_build_of_torch_beside_a_gpu_fails_with_the_command_that_repairs_it(
    context: Make, cuda_driver: str | None, fix: str
) -> None:
    here = context(machine=machine(gpus=(l4(cuda_driver=cuda_driver),), gpu_error=None))
    finding = hardware.gpu_torch(here)
    sick(finding, "fail", "built for the CPU alone", fix)
    assert "torch==2.13.0 " in finding.fix or "driver" in finding.fix


def test_a_driver_that_is_too_old_for_torch(context: Make) -> None:
    old = machine(gpus=(l4(cuda_driver="12.8"),), torch="2.13.0+cu130", torch_cuda="13.0")
    sick(hardware.gpu_torch(context(machine=old)), "fail", "CUDA 12.8 at most", "whl/cu128")


def test_a_gpu_that_is_too_old(context: Make) -> None:
    volta = l4(name="Tesla V100", capability=(7, 0))
    both = {"torch": "2.13.0+cu130", "torch_cuda": "13.0"}
    sick(hardware.gpu_torch(context(machine=machine(gpus=(volta,), **both))), "warn", "7.0", "CPU")
    mixed = machine(gpus=(volta, l4(index=1)), **both)
    sick(hardware.gpu_torch(context(machine=mixed)), "warn", "the other GPUs are used")


# ---------------------------------------------------------------- system


def test_this_python_and_system(context: Make) -> None:
    assert system.python(context()).status in ("ok", "warn")
    assert "glibc" in system.operating_system(context()).found
    assert system.utf8(context()).found


def test_old_and_foreign_c_libraries(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.17"))
    sick(system.operating_system(context()), "fail", "2.28")
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    sick(system.operating_system(context()), "fail", "glibc")


def test_another_system_is_warned_about(context: Make) -> None:
    sick(system.operating_system(context(machine=machine(system="Darwin"))), "warn", "Linux")


def test_text_encodings(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale: "ANSI_X3.4-1968")
    sick(system.utf8(context()), "warn", "ANSI_X3.4-1968", "LANG=C.UTF-8")


def test_container_and_its_limits(context: Make) -> None:
    here: Context = context()
    here.root.mkdir()
    healthy(system.container(here))
    (here.root / ".dockerenv").touch()
    cgroup = here.root / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    proc = here.root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
    (proc / "cgroup").write_text("0::/\n")
    (cgroup / "cpu.max").write_text("200000 100000\n")
    (cgroup / "memory.max").write_text(f"{4 * GIB}\n")
    finding = system.container(here)
    healthy(finding)
    assert finding.found == "in Docker, limited to 2 CPUs and 4.0 GiB of memory"
    (cgroup / "cpu.max").write_text("50000 100000\n")
    sick(system.container(here), "warn", "less than one CPU")


@pytest.mark.parametrize(
    ("limits", "status", "fix"),
    [
        ((65536, 65536), "ok", ""),
        ((1024, 1048576), "warn", "ulimit -n 4096"),
        ((1024, 2048), "warn", "ulimit -n 2048"),
        ((1024, 1024), "warn", "limits.conf"),
        ((-1, -1), "ok", ""),
    ],
)
def test_open_files(
    context: Make, monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], status: str, fix: str
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: limits)
    finding = system.open_files(context())
    assert finding.status == status
    assert fix in finding.fix


# ---------------------------------------------------------------- software


def test_versions(context: Make) -> None:
    healthy(software.torch(context()))
    healthy(software.transformers(context()))
    sick(software.torch(context(machine=machine(torch=None))), "fail", "pip install 'torch>=")
    sick(software.torch(context(machine=machine(torch="2.4.0+cu121"))), "fail", "outside", "2.11")
    sick(software.transformers(context(machine=machine(transformers="6.0.1"))), "fail", "<6")


@pytest.mark.parametrize(
    ("version", "wanted", "good"),
    [
        ("2.13.0+cpu", ">=2.11", True),
        ("2.11", ">=2.11.0", True),
        ("2.9.1", ">=2.11", False),
        ("5.17.0", ">=5.17,<6", True),
        ("6.0.0.dev0", "<6,>=5.17", False),
        ("3.0", "", True),
    ],
)
def test_version_ranges(version: str, wanted: str, good: bool) -> None:
    assert software.within(version, wanted) is good


def test_a_range_is_read_from_the_packages_own_metadata() -> None:
    lines = [
        "torchvision>=1",
        "torch>=2.11",
        "transformers<6,>=5.17",
        'nvidia-ml-py>=12; sys_platform == "linux"',
    ]
    assert software.required_range("torch", lines) == ">=2.11"
    assert software.required_range("transformers", lines) == "<6,>=5.17"
    assert software.required_range("nvidia-ml-py", lines) == ">=12"
    assert software.required_range("absent", lines) == ""


def test_hub_settings_never_show_the_token(context: Make, tmp_path: Path) -> None:
    secret = "hf_secretsecret"
    finding = software.hub(context(environ={"HF_TOKEN": secret, "HF_ENDPOINT": "https://mirror.example"}))
    healthy(finding)
    assert "https://mirror.example" in finding.found
    assert secret not in repr(finding)
    (tmp_path / "token").write_text(secret)
    finding = software.hub(context(environ={"HF_HOME": str(tmp_path)}))
    assert "token in" in finding.found
    assert secret not in repr(finding)
    sick(software.hub(context(environ={"HF_HUB_OFFLINE": "1"})), "warn", "unset HF_HUB_OFFLINE")


# ---------------------------------------------------------------- serving


def test_a_busy_port_names_its_holder(context: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        finding = serving.port(context(port=port))
        sick(finding, "warn", str(port), "in use")
        assert finding.fix
    healthy(serving.port(context(port=port)))
    healthy(serving.port(context(port=0)))


def test_folders(context: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = context()
    healthy(serving.cache_folder(here))
    assert not here.cache.exists()  # looking makes nothing
    here.state.mkdir()
    healthy(serving.state_folder(here))
    assert list(here.state.iterdir()) == []

    def read_only(dir: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    sick(serving.cache_folder(here), "fail", "Read-only file system", "DEPLOYKIT_CACHE")
    sick(serving.state_folder(here), "fail", "DEPLOYKIT_STATE")


def test_the_runtime_folder(context: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path)[:60] if len(str(tmp_path)) > 60 else str(tmp_path))
    healthy(serving.runtime_folder(context()))
    assert not list(tmp_path.glob("deploykit-*"))
