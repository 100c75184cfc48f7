"""What the kernel says of memory and of what it runs on: swap, huge pages, NUMA nodes, virtual machines, mounts."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from deploykit.hardware.memory import read_meminfo

_HYPERVISORS = {
    "kvm": "KVM",
    "qemu": "QEMU",
    "vmware": "VMware",
    "virtualbox": "VirtualBox",
    "innotek": "VirtualBox",
    "xen": "Xen",
    "microsoft": "Hyper-V",
    "amazon ec2": "Amazon EC2",
    "google": "Google Compute Engine",
    "parallels": "Parallels",
    "bhyve": "bhyve",
    "openstack": "OpenStack",
    "firecracker": "Firecracker",
}


class NumaNode(msgspec.Struct, frozen=True):
    """`cpus` in the kernel's words ("0-15,32-47"), memory in bytes."""

    number: int
    cpus: str
    total_bytes: int
    free_bytes: int


class Swap(msgspec.Struct, frozen=True):
    total: int  # bytes
    free: int


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def swap(root: Path = Path("/")) -> Swap:
    info = read_meminfo(root)
    return Swap(info.get("SwapTotal", 0), info.get("SwapFree", 0))


def huge_pages(root: Path = Path("/")) -> str | None:
    """always | madvise | never: what transparent huge pages are set to; None where the kernel has none."""
    text = _read(root / "sys/kernel/mm/transparent_hugepage/enabled")
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else None


def numa_nodes(root: Path = Path("/")) -> list[NumaNode]:
    """The nodes that have CPUs or memory; one, or none where the kernel doesn't say, on most machines."""
    found = []
    for folder in (root / "sys/devices/system/node").glob("node[0-9]*"):
        if not folder.name[4:].isdigit():
            continue
        memory = dict(
            re.findall(r"(MemTotal|MemFree):\s+(\d+) kB", _read(folder / "meminfo")),
        )
        cpus = _read(folder / "cpulist")
        if cpus or memory:
            sizes = [int(memory.get(name, 0)) * 1024 for name in ("MemTotal", "MemFree")]
            found.append(NumaNode(int(folder.name[4:]), cpus, *sizes))
    return sorted(found, key=lambda node: node.number)


def cpus_of(text: str) -> set[int]:
    """{0, 1, 2, 8} of "0-2,8"."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            found.update(range(int(first), int(last or first) + 1))
    return found


def virtual_machine(root: Path = Path("/")) -> str | None:
    """What runs this machine ("KVM"), or None on hardware of its own."""
    folder = root / "sys/class/dmi/id"
    words = " ".join(_read(folder / name) for name in ("sys_vendor", "product_name", "bios_vendor")).lower()
    for word, name in _HYPERVISORS.items():
        if word in words and not ("microsoft" in words and "surface" in words):
            return name
    kind = _read(root / "sys/hypervisor/type")
    if kind:
        return _HYPERVISORS.get(kind, kind)
    flags = re.search(r"^flags\s*:(.*)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return "an unknown hypervisor" if flags and " hypervisor" in flags[1] else None


def is_wsl(root: Path = Path("/")) -> bool:
    return "microsoft" in _read(root / "proc/sys/kernel/osrelease").lower()
