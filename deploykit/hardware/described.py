"""A machine that is described rather than probed: from a mapping whose keys are the fields of `Machine`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from deploykit.hardware.cpu import KNOWN_FLAGS
from deploykit.hardware.machine import CPU, GPU, Machine

MIB = 1 << 20
GIB = 1 << 30

DRIVER_BYTES = 640 * MIB  # what the driver keeps of an idle GPU's memory
DISK_FREE = 500 * GIB
FREE_SHARE = 0.9  # of main memory, where a file gives the total alone
# What a machine made ready for serving has installed. Named in the output wherever a plan rests on it.
SOFTWARE: dict[str, str] = {"python": "3.12", "transformers": "5.17.0", "compiler": "/usr/bin/c++"}
CUDA: dict[str, str] = {
    "driver": "580.95.05",
    "cuda_driver": "13.0",
    "torch": "2.13.0+cu130",
    "torch_cpu": "2.13.0+cpu",
    "torch_cuda": "13.0",
    "nvcc": "/usr/local/cuda/bin/nvcc",
    "toolkit": "13.0",
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": 1 << 40,
}
_SYSTEMS = ("Linux", "Darwin", "Windows")
_ARCHS = ("x86_64", "aarch64", "arm64", "AMD64")


@dataclass(frozen=True)
class Described:
    """`origin` is the name or the file; `assumed` says in words what the description doesn't."""

    machine: Machine
    origin: str
    assumed: tuple[str, ...] = ()


class Mistake(NamedTuple):
    """`path` leads to the value: ("gpus", 0, "name")."""

    path: tuple[str | int, ...]
    message: str


class DescriptionError(Exception):
    """Everything that is wrong with a description."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(m.message for m in mistakes))
        self.mistakes = mistakes


def driver_words(kept: int) -> str:
    return f"no other program on the GPU; the driver keeps {kept // MIB} MiB of its memory"


def software_words(machine: Machine, said: Container[str] = ()) -> str:
    """What the plan takes for installed, but for the fields that a description has `said`."""
    parts = [
        f"{name} {getattr(machine, name) or 'absent'}"
        for name in ("torch", "transformers")
        if name not in said
    ]
    if "compiler" not in said:
        parts.append("a C++ compiler" if machine.compiler else "no C++ compiler")
    if machine.gpus and "nvcc" not in said and "toolkit" not in said:
        parts.append(f"CUDA toolkit {machine.toolkit}")
    if machine.gpus and "gpus" not in said:
        parts.append(f"driver {machine.gpus[0].driver} (CUDA {machine.gpus[0].cuda_driver})")
    return ", ".join(parts)


def from_fields(data: Any, origin: str) -> Described:
    """The machine that `data` describes. Raises DescriptionError with every mistake.

    `memory_total` is needed, and of each GPU its name, compute capability and total_bytes; what else is left out is
    assumed, and said to be. Sizes are bytes or text (`64GiB`); a compute capability is `[9, 0]` or `"9.0"`.
    """
    reader = _Reader()
    top = reader.section(data, (), Machine, needed=("memory_total",))
    machine, assumed = _machine(reader, top)
    if reader.mistakes:
        raise DescriptionError(reader.mistakes)
    return Described(machine, origin, tuple(assumed))


def _machine(reader: _Reader, top: Mapping[str, Any]) -> tuple[Machine, list[str]]:
    assumed: list[str] = []
    total = reader.size(top, (), "memory_total") or 0
    available = reader.size(top, (), "memory_available")
    if available is None:
        available = int(total * FREE_SHARE)
        if "memory_total" in top:
            assumed.append(f"{FREE_SHARE:.0%} of the memory is free")
    elif available > total and "memory_total" in top:
        reader.wrong(("memory_available",), f"must be at most memory_total ({total})")
    cpu, cpu_assumed = _cpu(reader, top.get("cpu"))
    gpus, gpu_assumed = _gpus(reader, top.get("gpus"))
    software: dict[str, Any] = dict(SOFTWARE)
    if gpus:
        software |= {key: CUDA[key] for key in ("torch", "torch_cuda", "nvcc", "toolkit")}
    else:
        software |= {"torch": CUDA["torch_cpu"]}
    if "torch" in top and "torch_cuda" not in top:
        # A build names its CUDA itself: 2.13.0+cu130.
        tag = re.search(r"\+cu(\d+)(\d)$", str(top["torch"]))
        software["torch_cuda"] = f"{tag[1]}.{tag[2]}" if tag else None
    if "nvcc" in top and "toolkit" not in top:
        software["toolkit"] = None
    for key in ("python", "torch", "torch_cuda", "transformers", "compiler", "nvcc", "toolkit"):
        if key in top:
            software[key] = reader.text(top, (), key)
    error = reader.text(top, (), "gpu_error")
    machine = Machine(
        system=reader.choice(top, "system", _SYSTEMS) or "Linux",
        arch={"arm64": "aarch64", "AMD64": "x86_64"}.get(
            found := reader.choice(top, "arch", _ARCHS) or "x86_64", found
        ),
        cpu=cpu,
        memory_total=total,
        memory_available=available,
        disk_free=reader.size(top, (), "disk_free") or DISK_FREE,
        gpus=gpus,
        gpu_error=error or (None if gpus else "the described machine has none"),
        **{**software, "python": software["python"] or ""},
    )
    defaults = [f"{key} {getattr(machine, key)}" for key in ("system", "arch") if key not in top]
    if defaults:
        assumed.append(", ".join(defaults))
    assumed += cpu_assumed + gpu_assumed
    if words := software_words(machine, top):
        assumed.append(words)
    return machine, assumed


def _cpu(reader: _Reader, data: Any) -> tuple[CPU, list[str]]:
    if data is None:
        return CPU(model="unknown", cores=4, flags=("avx2", "fma")), ["a CPU of 4 cores with avx2, fma"]
    section = reader.section(data, ("cpu",), CPU, needed=("cores",))
    flags = section.get("flags", [])
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        reader.wrong(("cpu", "flags"), "must be a list of texts, such as [avx2, avx512f]")
        flags = []
    for i, flag in enumerate(flags):
        if flag not in KNOWN_FLAGS:
            reader.wrong(("cpu", "flags", i), f"unknown CPU flag `{flag}`{_meant(flag, KNOWN_FLAGS)}")
    cores = reader.whole(section, ("cpu",), "cores", 1, 4096) or 1
    model = reader.text(section, ("cpu",), "model") or "unknown"
    assumed = [] if "flags" in section else ["a CPU without vector instructions (cpu.flags)"]
    return CPU(model=model, cores=cores, flags=tuple(flags)), assumed


def _gpus(reader: _Reader, data: Any) -> tuple[tuple[GPU, ...], list[str]]:
    if data is None:
        return (), []
    if not isinstance(data, list):
        reader.wrong(("gpus",), "must be a list, one item a GPU")
        return (), []
    found, idle, driver = [], False, False
    for i, item in enumerate(data):
        path = ("gpus", i)
        section = reader.section(item, path, GPU, needed=("name", "compute_capability", "total_bytes"))
        total = reader.size(section, path, "total_bytes") or 0
        free = reader.size(section, path, "free_bytes")
        if free is None:
            free, idle = max(0, total - DRIVER_BYTES), True
        elif free > total and "total_bytes" in section:
            reader.wrong((*path, "free_bytes"), f"must be at most total_bytes ({total})")
        driver = driver or "cuda_driver" not in section
        index = reader.whole(section, path, "index", 0, 1023)
        found.append(
            GPU(
                index=i if index is None else index,
                name=reader.text(section, path, "name") or "",
                compute_capability=_capability(reader, section, path),
                total_bytes=total,
                free_bytes=free,
                driver=reader.text(section, path, "driver") if "driver" in section else CUDA["driver"],
                cuda_driver=(
                    reader.text(section, path, "cuda_driver")
                    if "cuda_driver" in section
                    else CUDA["cuda_driver"]
                ),
            )
        )
    indexes = [gpu.index for gpu in found]
    if len(set(indexes)) < len(indexes):
        reader.wrong(("gpus",), "two GPUs have the same index")
    assumed = [driver_words(DRIVER_BYTES)] if idle else []
    if driver:
        assumed.append(f"a driver that runs CUDA {CUDA['cuda_driver']}")
    return tuple(found), assumed


def _capability(reader: _Reader, section: Mapping[str, Any], path: tuple[str | int, ...]) -> tuple[int, int]:
    value = section.get("compute_capability", "0.0")
    if isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 <= n < 100 for n in value):
        return value[0], value[1]
    match = re.fullmatch(r"(\d{1,2})\.(\d)", str(value)) if isinstance(value, str | float) else None
    if match is None:
        reader.wrong((*path, "compute_capability"), 'must be [major, minor] or "major.minor", such as "9.0"')
        return 0, 0
    return int(match[1]), int(match[2])


class _Reader:
    """Takes values out of plain data and collects what is wrong with them."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []

    def wrong(self, path: tuple[str | int, ...], message: str) -> None:
        self.mistakes.append(Mistake(path, message))

    def section(
        self, data: Any, path: tuple[str | int, ...], of: Any, needed: tuple[str, ...]
    ) -> Mapping[str, Any]:
        """The mapping with the fields of `of`: others are mistakes, and so are needed ones that are absent."""
        fields: tuple[str, ...] = of.__struct_fields__
        if not isinstance(data, dict):
            self.wrong(path, f"must be a mapping with {', '.join(needed)}")
            return {}
        for key in data:
            if key not in fields:
                self.wrong((*path, key), f"unknown field `{key}`{_meant(str(key), fields)}")
        for key in needed:
            if data.get(key) is None:
                self.wrong(path, f"`{key}` is missing")
        return {
            key: value
            for key, value in data.items()
            if key in fields and not (key in needed and value is None)
        }

    def size(self, section: Mapping[str, Any], path: tuple[str | int, ...], key: str) -> int | None:
        value = section.get(key)
        if value is None:
            return None
        if type(value) is int and 0 <= value < 1 << 60:
            return value
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.wrong((*path, key), "must be a number of bytes, or a size such as 64GiB")
            return None
        return int(float(match[1]) * _UNITS[match[2]])

    def whole(
        self, section: Mapping[str, Any], path: tuple[str | int, ...], key: str, low: int, high: int
    ) -> int | None:
        value = section.get(key)
        if value is None:
            return None
        if type(value) is not int or not low <= value <= high:
            self.wrong((*path, key), f"must be a whole number from {low} to {high}")
            return None
        return value

    def text(self, section: Mapping[str, Any], path: tuple[str | int, ...], key: str) -> str | None:
        value = section.get(key)
        if value is None:
            return None
        if isinstance(value, float):  # 13.0 without quotes
            return str(value)
        if not isinstance(value, str) or len(value) > 200:
            self.wrong((*path, key), "must be a short text")
            return None
        return value

    def choice(self, section: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str | None:
        value = section.get(key)
        if value is None:
            return None
        if value not in choices:
            self.wrong((key,), f"must be one of {', '.join(choices)}{_meant(str(value), choices)}")
            return None
        return str(value)


def _meant(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word[:64], known, n=1, cutoff=0.6)
    return f": did you mean `{close[0]}`?" if close else f"; there are: {', '.join(known)}"
