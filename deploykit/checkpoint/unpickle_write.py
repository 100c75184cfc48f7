"""Tensors that were unpickled, written as safetensors; for the process of `unpickle.py` alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from deploykit.checkpoint.safetensors_write import allocate, header_of, put

Shapes = dict[str, tuple[str, tuple[int, ...], int]]  # name -> (safetensors' dtype, shape, bytes)

# torch's name -> safetensors'
DTYPES: dict[str, str] = {
    f"torch.{ours}": theirs
    for ours, theirs in {
        "bool": "BOOL",
        "uint8": "U8",
        "int8": "I8",
        "int16": "I16",
        "int32": "I32",
        "int64": "I64",
        "float16": "F16",
        "bfloat16": "BF16",
        "float32": "F32",
        "float64": "F64",
        "float8_e4m3fn": "F8_E4M3",
        "float8_e5m2": "F8_E5M2",
    }.items()
}


def size_of(tensor: torch.Tensor) -> int:
    """Bytes of its values."""
    return tensor.numel() * tensor.element_size()


class Writer:
    """Tensors given one by one, after their header was told."""

    def __init__(self, out: Path, total: int, say: Callable[..., None]) -> None:
        self.out, self.total, self.done, self.say = out, total, 0, say

    def write(
        self,
        file: str,
        tensors: Iterable[tuple[str, torch.Tensor]],
        shapes: Shapes,
    ) -> None:
        fd = os.open(self.out / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            header = header_of(shapes)
            allocate(fd, len(header) + sum(size for _, _, size in shapes.values()))
            at = put(fd, header, 0)
            for _, tensor in tensors:
                at += put(fd, _bytes(tensor), at)
                self.done += size_of(tensor)
                self.say("progress", done=self.done, total=self.total)
            os.fsync(fd)
        finally:
            os.close(fd)


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def write_index(out: Path, weight_map: dict[str, str], total: int) -> None:
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1)
    fd = os.open(out / "model.safetensors.index.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(fd, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def shard_name(index: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"
