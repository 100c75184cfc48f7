"""A program of its own that measures a CUDA card with torch: `python -m deploykit.bench.card_probe INDEX`.

Prints one JSON object: `read` and `copy` in bytes a second, `matrix` in operations a second (two a multiply-accumulate,
bfloat16, float16 where the card has none), and the CUDA that torch was built for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

ARRAY_BYTES = 4 << 30  # far above every cache; less where the card has less free
ROUNDS = 5
LAUNCHES = 10  # a round
MATRICES = ((8192, 8192, 8192), (8192, 28672, 4096), (8192, 4096, 14336))  # M, N, K


def fastest(launch: Callable[[], Any]) -> float:
    """Seconds of one launch: the best round, after one that isn't counted."""
    cuda: Any = torch.cuda  # its events have no types
    times: list[float] = []
    for _ in range(ROUNDS + 1):
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        for _ in range(LAUNCHES):
            launch()
        end.record()
        cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / LAUNCHES)
    return min(times[1:])


def measure(index: int) -> dict[str, Any]:
    torch.cuda.set_device(index)
    free, _ = torch.cuda.mem_get_info()
    columns = 16384
    rows = torch.ones(min(ARRAY_BYTES, free // 8) // 4 // columns, columns, device="cuda")
    dtype = torch.bfloat16 if torch.cuda.get_device_capability(index) >= (8, 0) else torch.float16
    return {
        "read": _read(rows),
        "copy": _copy(rows),
        "matrix": max(_matrix(dtype, *shape) for shape in MATRICES),
        "cuda": torch.version.cuda,
    }


def _read(rows: torch.Tensor) -> float:
    """The best of three ways to read: a library's own choice of blocks isn't the best for every size."""
    vector = torch.ones(rows.shape[1], device="cuda")
    out = torch.empty(rows.shape[0], device="cuda")
    readers: tuple[Callable[[], Any], ...] = (
        rows.sum,
        lambda: torch.mv(rows, vector, out=out),
        lambda: torch.amax(rows, dim=1, out=out),
    )
    return rows.nbytes / min(fastest(reader) for reader in readers)


def _copy(rows: torch.Tensor) -> float:
    target = torch.empty_like(rows)
    return 2 * rows.nbytes / fastest(lambda: target.copy_(rows))


def _matrix(dtype: torch.dtype, m: int, n: int, k: int) -> float:
    a = torch.randn(m, k, device="cuda", dtype=dtype)
    b = torch.randn(n, k, device="cuda", dtype=dtype)
    out = torch.empty(m, n, device="cuda", dtype=dtype)
    return 2 * m * n * k / fastest(lambda: torch.mm(a, b.t(), out=out))


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
