"""Machines that are known by name, so that one machine can plan for another.

A GPU's memory is what NVML reports for the card; the host around it is a common one to rent or to build, and every
value that the card itself doesn't fix is an assumption that is said beside the plan.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from deploykit.hardware.described import (
    CUDA,
    DISK_FREE,
    DRIVER_BYTES,
    SOFTWARE,
    Described,
    driver_words,
    software_words,
)
from deploykit.hardware.machine import CPU, GPU, Machine

MIB = 1 << 20
GIB = 1 << 30
MAX_GPUS = 16  # of one machine

_AVX2 = ("avx2", "fma")
_AVX512 = (*_AVX2, "avx512f", "avx512_vnni")
_AMX = (*_AVX512, "avx512_bf16", "amx_bf16", "amx_int8")
_ZEN4 = (*_AVX512, "avx512_bf16")
_NEON = ("neon", "fp16", "dotprod")


class Host(NamedTuple):
    cpu: str
    cores: int
    flags: tuple[str, ...]
    memory: int  # GiB
    available: float = 0.9  # share of the memory
    arch: str = "x86_64"


class Card(NamedTuple):
    name: str  # as NVML says it
    compute_capability: tuple[int, int]
    memory: int  # MiB
    host: Host  # cores and memory are for each GPU


_RENTED = "a server's"
_CARDS: dict[str, Card] = {
    "b200": Card("NVIDIA B200", (10, 0), 183359, Host(_RENTED, 16, _AMX, 192)),
    "h200": Card("NVIDIA H200", (9, 0), 143771, Host(_RENTED, 16, _AMX, 192)),
    "gh200": Card(
        "NVIDIA GH200 480GB", (9, 0), 97871, Host(_RENTED, 64, (*_NEON, "bf16", "i8mm"), 432, arch="aarch64")
    ),
    "h100": Card("NVIDIA H100 80GB HBM3", (9, 0), 81559, Host(_RENTED, 16, _AMX, 128)),
    "a100-80": Card("NVIDIA A100-SXM4-80GB", (8, 0), 81920, Host(_RENTED, 12, _AVX2, 128)),
    "a100-40": Card("NVIDIA A100-SXM4-40GB", (8, 0), 40960, Host(_RENTED, 12, _AVX512, 80)),
    "rtx-pro-6000": Card(
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", (12, 0), 97887, Host(_RENTED, 16, _ZEN4, 128)
    ),
    "l40s": Card("NVIDIA L40S", (8, 9), 46068, Host(_RENTED, 8, _AVX2, 64)),
    "a40": Card("NVIDIA A40", (8, 6), 46068, Host(_RENTED, 8, _AVX2, 64)),
    "a6000": Card("NVIDIA RTX A6000", (8, 6), 49140, Host(_RENTED, 8, _AVX2, 64)),
    "a30": Card("NVIDIA A30", (8, 0), 24576, Host(_RENTED, 8, _AVX2, 64)),
    "a10": Card("NVIDIA A10", (8, 6), 23028, Host(_RENTED, 8, _AVX2, 32)),
    "l4": Card("NVIDIA L4", (8, 9), 23034, Host(_RENTED, 8, _AVX512, 32)),
    "t4": Card("Tesla T4", (7, 5), 15360, Host(_RENTED, 8, _AVX512, 32)),
    "v100": Card("Tesla V100-SXM2-16GB", (7, 0), 16384, Host(_RENTED, 8, _AVX2, 61)),
    "v100-32": Card("Tesla V100-SXM2-32GB", (7, 0), 32768, Host(_RENTED, 12, _AVX2, 96)),
    "p100": Card("Tesla P100-PCIE-16GB", (6, 0), 16384, Host(_RENTED, 8, _AVX2, 52)),
    "5090": Card("NVIDIA GeForce RTX 5090", (12, 0), 32607, Host("a workstation's", 16, _ZEN4, 64)),
    "4090": Card("NVIDIA GeForce RTX 4090", (8, 9), 24564, Host("a workstation's", 16, _AVX2, 64)),
    "4080": Card("NVIDIA GeForce RTX 4080", (8, 9), 16376, Host("a workstation's", 16, _AVX2, 32)),
    "4060": Card("NVIDIA GeForce RTX 4060", (8, 9), 8188, Host("a desktop's", 8, _AVX2, 16)),
    "3090": Card("NVIDIA GeForce RTX 3090", (8, 6), 24576, Host("a workstation's", 12, _AVX2, 64)),
    "3060": Card("NVIDIA GeForce RTX 3060", (8, 6), 12288, Host("a desktop's", 8, _AVX2, 32)),
    "2080ti": Card("NVIDIA GeForce RTX 2080 Ti", (7, 5), 11264, Host("a desktop's", 8, _AVX2, 32)),
}
_PLAIN: dict[str, Host] = {
    "laptop": Host("a laptop's", 8, _AVX2, 16, 0.65),
    "desktop": Host("a desktop's", 16, _AVX2, 32, 0.75),
    "cpu-server": Host(_RENTED, 32, _AMX, 128),
    "arm-server": Host("an Arm server's", 64, (*_NEON, "bf16", "i8mm"), 128, arch="aarch64"),
    "pi5": Host("a Raspberry Pi 5's", 4, _NEON, 8, 0.8, arch="aarch64"),
}
_COUNTED = re.compile(r"(?P<card>.+?)x(?P<count>\d{1,3})")


@dataclass(frozen=True)
class Entry:
    """One line of the list of machines."""

    name: str
    about: str
    machine: Machine
    assumed: tuple[str, ...]


def entries() -> tuple[Entry, ...]:
    """Every name, GPUs first. A GPU's name takes `xN` for N of them in one machine."""
    found = []
    for name, card in _CARDS.items():
        about = "{}, compute capability {}.{}".format(card.name, *card.compute_capability)
        found.append((about, _with_gpus(name, card, 1)))
    found += [(f"no GPU, {host.cpu} CPU", _describe(name, host, ())) for name, host in _PLAIN.items()]
    return tuple(Entry(d.origin, about, d.machine, d.assumed) for about, d in found)


def names() -> tuple[str, ...]:
    return (*_CARDS, *_PLAIN)


def named(name: str) -> Described | None:
    """The machine of that name (`h100`, `h100x1`, `4090x2`, `laptop`), or None where there is none."""
    key = name.strip().lower()
    if (host := _PLAIN.get(key)) is not None:
        return _describe(key, host, ())
    count, card = 1, _CARDS.get(key)
    if card is None and (match := _COUNTED.fullmatch(key)):
        count, card = int(match["count"]), _CARDS.get(match["card"])
    if card is None or not 1 <= count <= MAX_GPUS:
        return None
    return _with_gpus(key, card, count)


def similar(name: str) -> str | None:
    """The name that was probably meant."""
    key = name.strip().lower()[:64]
    if (match := _COUNTED.fullmatch(key)) and match["card"] in _CARDS:
        return f"{match['card']}x{MAX_GPUS}" if int(match["count"]) > MAX_GPUS else match["card"]
    plain = re.sub(r"^(nvidia|geforce|tesla|rtx)[-_ ]*", "", key)
    close = difflib.get_close_matches(plain, names(), n=1, cutoff=0.55)
    return close[0] if close else None


def _with_gpus(name: str, card: Card, count: int) -> Described:
    gpu = GPU(
        index=0,
        name=card.name,
        compute_capability=card.compute_capability,
        total_bytes=card.memory * MIB,
        free_bytes=card.memory * MIB - DRIVER_BYTES,
        driver=CUDA["driver"],
        cuda_driver=CUDA["cuda_driver"],
    )
    host = card.host._replace(cores=card.host.cores * count, memory=card.host.memory * count)
    return _describe(name, host, tuple(msgspec.structs.replace(gpu, index=i) for i in range(count)))


def _describe(name: str, host: Host, gpus: tuple[GPU, ...]) -> Described:
    memory = host.memory * GIB
    machine = Machine(
        system="Linux",
        arch=host.arch,
        cpu=CPU(model="unknown", cores=host.cores, flags=host.flags),
        memory_total=memory,
        memory_available=int(memory * host.available),
        disk_free=DISK_FREE,
        gpus=gpus,
        gpu_error=None if gpus else "the described machine has none",
        **SOFTWARE,
        **(
            {"torch": CUDA["torch"], "torch_cuda": CUDA["torch_cuda"]}
            if gpus
            else {"torch": CUDA["torch_cpu"]}
        ),
        **({"nvcc": CUDA["nvcc"], "toolkit": CUDA["toolkit"]} if gpus else {}),
    )
    assumed = [
        f"{host.cores} cores with {', '.join(host.flags)}; {host.memory} GiB of memory, {host.available:.0%} of it free"
    ]
    if gpus:
        assumed.append(driver_words(DRIVER_BYTES))
    assumed.append(software_words(machine))
    return Described(machine, name, tuple(assumed))
