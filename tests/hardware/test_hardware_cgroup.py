"""Limits of cgroup v1 and v2, read from made-up /proc and /sys trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploykit.hardware.cgroup import cpu_quota, memory_limits
from deploykit.hardware.cpu import probe_cpu, usable_cores
from deploykit.hardware.memory import probe_memory

GIB = 1 << 30
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n"
V1_MEMORY = "35 31 0:32 {mounted} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V1_CPU = "32 31 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_without_cgroups_has_no_limits(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory_limits(tmp_path) == []


def test_v2_limits_of_every_level_count(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/system.slice/app.service\n",
            "sys/fs/cgroup/system.slice/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/system.slice/app.service/cpu.max": "max 100000\n",
            "sys/fs/cgroup/system.slice/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/system.slice/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/system.slice/memory.stat": f"anon 5\ninactive_file {GIB}\n",
            "sys/fs/cgroup/system.slice/app.service/memory.max": "max\n",
        },
    )
    assert cpu_quota(root) == 1.5
    (level,) = memory_limits(root)
    # 4 GiB allowed, 3 in use, of which 1 is page cache that can be dropped
    assert (level.limit, level.available) == (4 * GIB, 2 * GIB)


def test_v1_without_limits_writes_minus_one_and_a_huge_number(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": V1_MEMORY.format(mounted="/") + V1_CPU.format(mounted="/"),
            "proc/self/cgroup": "4:memory:/box\n1:cpu,cpuacct:/box\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "-1\n",
        },
    )
    assert cpu_quota(root) is None
    assert memory_limits(root) == []


def test_v1_inside_a_container_that_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    """/proc/self/cgroup names the host's path, and the mount shows that very group at its root."""
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": V1_MEMORY.format(mounted="/docker/abc")
            + V1_CPU.format(mounted="/docker/abc"),
            "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cpu_quota(root) == 2.0
    assert [(level.limit, level.available) for level in memory_limits(root)] == [(2 * GIB, GIB)]


@pytest.mark.parametrize("text", ["", "max", "garbage", "0 100000", "-5 x", "100000 0"])
def test_nonsense_in_cpu_max_is_no_limit(tmp_path: Path, text: str) -> None:
    root = write(
        tmp_path, {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text}
    )
    assert cpu_quota(root) is None


def test_memory_is_the_least_of_the_machine_and_the_limits(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   6291456 kB\n",
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/\n",
        },
    )
    assert probe_memory(root) == (8 * GIB, 6 * GIB)
    write(root, {"sys/fs/cgroup/memory.max": f"{GIB}\n", "sys/fs/cgroup/memory.current": "0\n"})
    assert probe_memory(root) == (GIB, GIB)
    write(root, {"sys/fs/cgroup/memory.max": f"{100 * GIB}\n", "sys/fs/cgroup/memory.current": "0\n"})
    assert probe_memory(root) == (8 * GIB, 6 * GIB)


def test_cores_follow_affinity_and_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cores(tmp_path) == 8
    write(tmp_path, {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/\n"})
    for text, cores in (
        ("50000 100000", 1),
        ("150000 100000", 1),
        ("400000 100000", 4),
        ("1600000 100000", 8),
    ):
        write(tmp_path, {"sys/fs/cgroup/cpu.max": text})
        assert usable_cores(tmp_path) == cores


def test_cpuinfo_of_x86_and_arm(tmp_path: Path) -> None:
    flags = "fpu sse4_2 avx avx2 avx512f avx512_vnni avx512_bf16 amx_bf16"
    write(
        tmp_path,
        {"proc/cpuinfo": f"processor : 0\nmodel name : Xeon\nflags : {flags}\n\nprocessor : 1\nflags : \n"},
    )
    cpu = probe_cpu(tmp_path)
    assert cpu.model == "Xeon"
    assert {"avx2", "avx512_bf16", "amx_bf16"} <= set(cpu.flags)
    assert "fpu" not in cpu.flags
    arm = "processor : 0\nFeatures : fp asimd asimdhp asimddp i8mm bf16\nCPU implementer : 0x41\nCPU part : 0xd40\n"
    write(tmp_path, {"proc/cpuinfo": arm})
    cpu = probe_cpu(tmp_path)
    assert cpu.flags == ("neon", "fp16", "dotprod", "bf16", "i8mm")
    assert "0x41" in cpu.model
