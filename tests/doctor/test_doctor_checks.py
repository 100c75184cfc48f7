"""Every check on machines that are well and on machines that are not: a failure names its repair."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_machines import GIB, H100, gpu_machine, machine

from deploykit.doctor import Context, hardware, limits, processor, serving, software, system
from deploykit.doctor.check import Finding
from deploykit.hardware.machine import CPU

Make = Callable[..., Any]


EPYC = CPU(
    model="AMD EPYC",
    cores=2,
    flags=("f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
)


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
    finding = processor.cpu(context(machine=machine(cpu=EPYC)))
    healthy(finding)
    assert "bfloat16" in finding.found
    assert "native variant avx512" in finding.found
    old = machine(cpu=CPU(model="Core 2", cores=1))
    sick(processor.cpu(context(machine=old)), "warn", "AVX2", "1 core,", "no bfloat16")


def test_memory(context: Make) -> None:
    healthy(hardware.memory(context()))
    sick(hardware.memory(context(machine=machine(memory_available=GIB // 2))), "warn", "512.0 MiB")
    assert hardware.memory(context(machine=machine(memory_total=0))).status == "warn"


def test_disk(context: Make) -> None:
    healthy(hardware.disk(context()))
    sick(hardware.disk(context(machine=machine(disk_free=5 * GIB))), "warn", "DEPLOYKIT_CACHE")
    sick(hardware.disk(context(machine=machine(disk_free=GIB // 2))), "fail", "DEPLOYKIT_CACHE")


def test_swap(context: Make) -> None:
    here = context()
    proc = here.root / "proc"
    proc.mkdir(parents=True)
    info = proc / "meminfo"
    info.write_text("SwapTotal: 0 kB\nSwapFree: 0 kB\n")
    assert hardware.swap(here).found == "none"
    info.write_text(f"SwapTotal: {8 << 20} kB\nSwapFree: {7 << 20} kB\n")
    healthy(hardware.swap(here))
    info.write_text(f"SwapTotal: {8 << 20} kB\nSwapFree: {1 << 20} kB\n")
    sick(hardware.swap(here), "warn", "7.0 GiB used of 8.0 GiB", "free -h")


def test_disk_against_the_recipe(context: Make) -> None:
    some = machine(disk_free=5 * GIB)
    healthy(hardware.disk(context(machine=some, missing_bytes=3 * GIB)))
    healthy(hardware.disk(context(machine=some, missing_bytes=0)))
    sick(hardware.disk(context(machine=some, missing_bytes=16 * GIB)), "fail", "16.0 GiB", "DEPLOYKIT_CACHE")


def put_on_the_bus(
    root: Path, vendor: str, kind: str, device: str = "0x0000", slot: str = "0000:41:00.0"
) -> None:
    folder = root / "sys/bus/pci/devices" / slot
    folder.mkdir(parents=True)
    for name, text in (("vendor", vendor), ("class", kind), ("device", device)):
        (folder / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("vendor", "kind", "device", "words"),
    [
        ("0x1002", "0x038000", "0x74a1", ("AMD GPU", "ROCm")),
        ("0x1002", "0x120000", "0x74a1", ("AMD GPU", "not supported by this version")),
        ("0x8086", "0x038000", "0x0bd5", ("Intel GPU", "XPU")),
        ("0x19e5", "0x120000", "0xd802", ("Ascend 910B", "npu")),
        ("0x19e5", "0x120000", "0xd500", ("Ascend 310P", "Ascend NPUs")),
        ("0x1da3", "0x120000", "0x1020", ("Gaudi",)),
    ],
)
def test_accelerators_of_others_are_unsupported_by_name(
    context: Make, vendor: str, kind: str, device: str, words: tuple[str, ...]
) -> None:
    here = context()
    put_on_the_bus(here.root, vendor, kind, device)
    sick(hardware.other_accelerators(here), "warn", *words, "the CPU")


def test_accelerators_that_a_container_shows_by_their_files(context: Make) -> None:
    here = context()
    (here.root / "dev").mkdir(parents=True)
    (here.root / "dev/davinci0").touch()
    (here.root / "dev/davinci_manager").touch()
    (here.root / "dev/kfd").touch()
    finding = hardware.other_accelerators(here)
    sick(finding, "warn", "Huawei Ascend NPU", "davinci0", "AMD GPU (ROCm)", "npu, CANN")
    assert "davinci_manager" not in finding.found
    set_up = context(root=here.root / "empty", environ={"ASCEND_HOME_PATH": "/usr/local/Ascend"})
    sick(hardware.other_accelerators(set_up), "warn", "Ascend", "/usr/local/Ascend")


def test_graphics_of_the_board_are_no_news(context: Make) -> None:
    here = context()
    put_on_the_bus(here.root, "0x8086", "0x030000", slot="0000:00:02.0")
    put_on_the_bus(here.root, "0x1002", "0x030000")
    put_on_the_bus(here.root, "0x19e5", "0x030000", slot="0000:03:00.0")  # a Huawei server's display adapter
    put_on_the_bus(here.root, "0x8086", "0x020000", slot="0000:04:00.0")  # a network card
    finding = hardware.other_accelerators(here)
    assert finding.status == "skip"
    assert "Intel integrated graphics" in finding.found


# ---------------------------------------------------------------- processor


def add_node(root: Path, number: int, cpus: str, free: int) -> None:
    folder = root / f"sys/devices/system/node/node{number}"
    folder.mkdir(parents=True)
    (folder / "cpulist").write_text(f"{cpus}\n")
    (folder / "meminfo").write_text(
        f"Node {number} MemTotal:       {64 << 20} kB\nNode {number} MemFree:        {free} kB\n"
    )


def test_numa_nodes(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = context()
    assert processor.numa(here).status == "skip"
    add_node(here.root, 0, "0-3,8-11", 10 << 20)
    assert processor.numa(here).found == "one node"
    add_node(here.root, 1, "4-7,12-15", 60 << 20)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))
    finding = processor.numa(here)
    sick(finding, "warn", "2 nodes", "numactl --cpunodebind=1 --membind=1")
    assert "node 1: CPUs 4-7,12-15, 60.0 GiB free of 64.0 GiB" in finding.details
    assert processor.numa(context(root=here.root, machine=gpu_machine(H100))).status == "ok"
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {4, 5, 13})
    healthy(processor.numa(here))
    assert "bound to node 1" in processor.numa(here).found


def test_huge_pages(context: Make) -> None:
    here = context()
    assert processor.transparent_huge_pages(here).status == "skip"
    folder = here.root / "sys/kernel/mm/transparent_hugepage"
    folder.mkdir(parents=True)
    (folder / "enabled").write_text("always [madvise] never\n")
    healthy(processor.transparent_huge_pages(here))
    (folder / "enabled").write_text("always madvise [never]\n")
    sick(processor.transparent_huge_pages(here), "warn", "never", "echo madvise")


@pytest.mark.parametrize(
    ("environ", "status", "words"),
    [
        ({}, "ok", "no OMP"),
        ({"OMP_NUM_THREADS": "2"}, "ok", "OMP_NUM_THREADS=2"),
        ({"OMP_NUM_THREADS": "2,1"}, "ok", "2,1"),
        ({"OMP_NUM_THREADS": "64"}, "warn", "2 cores"),
        ({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2"}, "warn", "contradict"),
        ({"OPENBLAS_NUM_THREADS": "many"}, "warn", "no number of threads"),
        ({"KMP_AFFINITY": "compact"}, "warn", "KMP_AFFINITY"),
    ],
)
def test_thread_variables(context: Make, environ: dict[str, str], status: str, words: str) -> None:
    finding = processor.thread_variables(context(environ=environ))
    assert finding.status == status, finding
    assert words in f"{finding.found} {finding.why}"
    assert bool(finding.fix) is (status == "warn")


def test_the_variant_that_is_foretold_is_the_one_that_the_library_takes() -> None:
    from deploykit.build import locate
    from deploykit.build.check import ask
    from deploykit.hardware.cpu import probe_cpu

    found = locate()
    if found is None:
        pytest.skip("the native library is not built")
    assert processor.native_variant(probe_cpu().flags) == ask(found.module).isas[0]


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


def test_other_systems(context: Make) -> None:
    sick(system.operating_system(context(machine=machine(system="Darwin"))), "warn", "Linux")
    sick(system.operating_system(context(machine=machine(system="Windows"))), "fail", "WSL2", "wsl --install")


def test_variables_of_other_servers_are_told_apart(context: Make) -> None:
    healthy(system.foreign_variables(context(environ={"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0"})))
    finding = system.foreign_variables(context(environ={"VLLM_API_KEY": "a-secret", "PATH": "/bin"}))
    sick(finding, "warn", "VLLM_API_KEY", "without effect", "unset VLLM_API_KEY")
    assert "a-secret" not in repr(finding)


def test_virtual_machines(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = context()
    assert system.virtual(here).found == "hardware of its own"
    dmi = here.root / "sys/class/dmi/id"
    dmi.mkdir(parents=True)
    (dmi / "sys_vendor").write_text("Amazon EC2\n")
    assert "Amazon EC2" in system.virtual(here).found
    (dmi / "sys_vendor").write_text("Dell Inc.\n")
    proc = here.root / "proc/sys/kernel"
    proc.mkdir(parents=True)
    (here.root / "proc/cpuinfo").write_text("flags\t\t: fpu hypervisor avx2\n")
    assert "unknown hypervisor" in system.virtual(here).found
    (proc / "osrelease").write_text("5.15.153.1-microsoft-standard-WSL2\n")
    monkeypatch.setattr("platform.release", lambda: "5.15.153.1-microsoft-standard-WSL2")
    assert system.virtual(here).found == "WSL2"
    sick(system.virtual(context(root=here.root, cache=Path("/mnt/c/models"))), "warn", "/mnt/c/models")
    (proc / "osrelease").write_text("4.4.0-19041-Microsoft\n")
    monkeypatch.setattr("platform.release", lambda: "4.4.0-19041-Microsoft")
    sick(system.virtual(here), "warn", "WSL1", "--set-version")


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
    ("both", "status", "fix"),
    [
        ((65536, 65536), "ok", ""),
        ((1024, 1048576), "warn", "ulimit -n 4096"),
        ((1024, 2048), "warn", "ulimit -n 2048"),
        ((1024, 1024), "warn", "limits.conf"),
        ((-1, -1), "ok", ""),
    ],
)
def test_open_files(
    context: Make, monkeypatch: pytest.MonkeyPatch, both: tuple[int, int], status: str, fix: str
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: both)
    finding = limits.open_files(context())
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


def test_pinned_packages(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        'triton==3.7.0; platform_system == "Linux"',
        'nvidia-nccl-cu13==2.28.9; platform_system == "Linux"',
        'nothing==1.0; platform_system == "Windows"',
        'optional==1.0; extra == "opt"',
        "filelock",
        "sympy>=1.13.3",
    ]
    have = {"triton": "3.7.0", "nvidia-nccl-cu13": "2.28.9"}
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    monkeypatch.setattr(software, "package_version", have.get)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert "2 packages" in software.pins(context()).found
    have["triton"] = "3.5.1"
    del have["nvidia-nccl-cu13"]
    sick(
        software.pins(context()),
        "warn",
        "triton 3.5.1",
        "3.7.0",
        "pip install triton==3.7.0 nvidia-nccl-cu13==2.28.9",
    )
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy"])
    healthy(software.pins(context()))


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


# ---------------------------------------------------------------- limits and folders


def test_locked_memory_matters_between_gpus(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (65536, 65536))
    healthy(limits.locked_memory(context()))
    two = context(machine=gpu_machine(H100, H100))
    sick(limits.locked_memory(two), "warn", "64.0 KiB", "ulimit -l unlimited")
    monkeypatch.setattr("resource.getrlimit", lambda which: (-1, -1))
    assert limits.locked_memory(two).found == "unlimited"


def test_shared_memory_of_a_container(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(64 << 20, 0, 64 << 20))
    healthy(limits.shared_memory(context()))
    two = context(machine=gpu_machine(H100, H100))
    sick(limits.shared_memory(two), "warn", "64.0 MiB", "--shm-size")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(8 << 30, 8 << 30, 0))
    sick(limits.shared_memory(two), "warn", "/dev/shm")
    assert limits.shared_memory(context(root=Path("/nowhere"))).status in ("ok", "warn")


def test_the_temporary_folder_is_really_used(
    context: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    healthy(limits.temporary(context()))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(limits.child, "ask", lambda *_, **__: limits.child.Answer("", "Permission denied"))
    sick(limits.temporary(context()), "warn", "noexec", "TMPDIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    sick(limits.temporary(context()), "fail", "absent", "TMPDIR")


def test_libraries_may_be_loaded_from_the_cache(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    from types import SimpleNamespace

    healthy(limits.executable_cache(context()))
    monkeypatch.setattr("os.statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))
    sick(limits.executable_cache(context()), "fail", "noexec", "DEPLOYKIT_CACHE")


# ---------------------------------------------------------------- how to reach it


SSH = {"SSH_CONNECTION": "198.51.100.7 50522 203.0.113.5 22", "USER": "alice"}


def test_a_remote_session_is_told_how_to_reach_loopback(
    context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "wonder")
    finding = serving.reach(context(environ=SSH, port=8000))
    healthy(finding)
    assert "`ssh -N -L 8000:127.0.0.1:8000 alice@wonder`" in finding.found
    assert "203.0.113.5" in finding.details[0]
    other = SSH | {"SSH_CONNECTION": "198.51.100.7 50522 203.0.113.5 2222"}
    assert "ssh -p 2222 -N -L" in serving.reach(context(environ=other)).found
    assert "-L 23333:127.0.0.1:23333" in serving.reach(context(environ=SSH, port=0)).found
    assert "ssh" not in serving.reach(context(environ=SSH, host="0.0.0.0")).found
    assert "on this machine" in serving.reach(context(environ={"SSH_CONNECTION": "odd"})).found
