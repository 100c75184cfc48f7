"""A machine as the planner sees it. Unknown is None, never invented."""

from __future__ import annotations

import msgspec


class GPU(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    name: str
    compute_capability: tuple[int, int]
    total_bytes: int
    free_bytes: int
    driver: str | None = None
    cuda_driver: str | None = None  # newest CUDA that the driver runs, "13.0"


class CPU(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    cores: int  # what the cgroup and the affinity mask leave, not what the board has
    flags: tuple[
        str, ...
    ] = ()  # avx2, avx512f, avx512_vnni, avx512_bf16, avx_vnni, amx_bf16, amx_int8, neon, …


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    system: str  # Linux | Darwin | Windows
    arch: str  # x86_64 | aarch64
    cpu: CPU
    memory_total: int  # bytes, the cgroup's limit where there is one; 0 = the system doesn't say
    memory_available: int  # bytes; page cache that can be dropped counts as available
    disk_free: int  # bytes, at the cache folder; 0 = unknown
    gpus: tuple[GPU, ...] = ()
    gpu_error: str | None = None  # why no GPU, or not every one, could be asked
    python: str = ""
    torch: str | None = None  # installed version, read without importing it
    torch_cuda: str | None = None  # CUDA that torch was built for, or None for a CPU build
    transformers: str | None = None
    compiler: str | None = None
    nvcc: str | None = None
    toolkit: str | None = None  # version of the CUDA toolkit that nvcc belongs to, "13.0"
