"""Weights as CPU torch tensors under Hugging Face's names. The one module of this room that imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from deploykit.checkpoint import safetensors
from deploykit.checkpoint.convert import TARGETS, converted_file
from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import Facts
from deploykit.checkpoint.files import member
from deploykit.checkpoint.joined import wholes

_CASTABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def iter_weights(facts: Facts, dtype: str, cache: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """(Hugging Face name, CPU tensor) of every tensor, in the order of the files.

    Tensors stored in `dtype` (float32, bfloat16, float16) are mapped from the disk and must not be written to; others
    of a floating type are cast, one at a time; packed and integer tensors of quantized checkpoints come as they are.
    A GGUF file is dequantized into `cache` the first time. Raises CheckpointError for a file that is no more what
    `facts` says.
    """
    if dtype not in TARGETS:
        raise CheckpointError(
            f"weights can't be read as {dtype}", file=facts.path, why=f"known: {', '.join(TARGETS)}"
        )
    if facts.format == "gguf":
        files = [(converted_file(facts, dtype, cache), [w.name for w in wholes(facts.tensors)])]
    else:
        by_file: dict[str, list[str]] = {}
        for t in facts.tensors:
            by_file.setdefault(t.file, []).append(t.name)
        files = [(member(Path(facts.path), name), names) for name, names in by_file.items()]
    target = getattr(torch, dtype)
    for path, names in files:
        yield from _iter_file(path, names, target)


def _iter_file(path: Path, names: list[str], target: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    present = {
        t.name for t in safetensors.read_header(path).tensors
    }  # proven again: the file may have changed
    missing = next((n for n in names if n not in present), None)
    if missing is not None:
        raise CheckpointError("the file has changed since it was looked at", file=path, tensor=missing)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as f:
            for name in names:
                tensor = f.get_tensor(name)
                if tensor.dtype in _CASTABLE and tensor.dtype != target:
                    tensor = tensor.to(target)
                yield name, tensor
    except (SafetensorError, OSError) as e:
        raise CheckpointError("the safetensors file can't be read", file=path, why=str(e)) from e
