"""A GGUF file dequantized once into a safetensors file in the cache, tensor by tensor, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from deploykit.checkpoint import gguf
from deploykit.checkpoint.dequant import Bytes, Floats, dequantize, narrow
from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.checkpoint.files import open_regular
from deploykit.fsutil import file_lock
from deploykit.hub.disk import require_space

CONVERTER_VERSION = 1  # raise it when the same file would convert to other bytes
TARGETS = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float16": ("F16", 2)}
_PLAIN = ("float32", "float16", "bfloat16")
_CHUNK_ELEMENTS = 4 << 20


def cache_key(facts: Facts) -> str:
    """Names a GGUF file's content by its size, its time and the sha256 of its header."""
    path = Path(facts.path)
    status = path.stat()
    digest = gguf.read_header(path).digest
    return f"{digest[:24]}-{status.st_size:x}-{status.st_mtime_ns:x}"


def converted_file(facts: Facts, dtype: str, cache: Path) -> Path:
    """The safetensors file of a GGUF in `dtype`, made when it isn't there; another process's work is waited for."""
    folder = cache / "converted" / f"{cache_key(facts)}-{CONVERTER_VERSION}-{dtype}"
    target = folder / "model.safetensors"
    if target.exists():
        return target
    with file_lock(cache / "locks" / f"{folder.name}.lock"):
        if target.exists():
            return target
        nbytes = sum(t.num_elements for t in facts.tensors) * TARGETS[dtype][1]
        require_space(cache, nbytes + (1 << 20), what="the dequantized weights")
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "model.safetensors.partial"  # one left by a killed process is overwritten
        try:
            with open(partial, "wb") as out, open_regular(Path(facts.path)) as source:
                _write(facts, dtype, source, out)
                out.flush()
                os.fsync(out.fileno())
            os.replace(partial, target)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
                folder.rmdir()
            raise
    return target


def _write(facts: Facts, dtype: str, source: BinaryIO, out: BinaryIO) -> None:
    name, size = TARGETS[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for t in facts.tensors:
        end = offset + t.num_elements * size
        header[t.name] = {"dtype": name, "shape": list(t.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    for t in facts.tensors:
        for rows in _rows(facts, t, source):
            out.write(_cast(rows, dtype, facts, t))


def _rows(facts: Facts, t: TensorInfo, source: BinaryIO) -> Iterator[Floats]:
    """The tensor's rows as float32, a bounded number at a time, Q and K in Hugging Face's order."""
    columns = (
        t.shape[-1] if len(t.shape) > 1 or t.dtype not in _PLAIN else 1
    )  # biases are permuted by element
    num_rows = t.num_elements // columns
    row_bytes = t.nbytes // num_rows
    order = _row_order(facts, t, num_rows)
    step = max(1, _CHUNK_ELEMENTS // columns)
    whole = _read(source, t.offset, t.nbytes).reshape(num_rows, row_bytes) if order is not None else None
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        if whole is not None and order is not None:
            raw = whole[order[start:stop]]
        else:
            raw = _read(source, t.offset + start * row_bytes, (stop - start) * row_bytes).reshape(
                -1, row_bytes
            )
        yield dequantize(raw, t.dtype)


def _row_order(facts: Facts, t: TensorInfo, num_rows: int) -> npt.NDArray[np.int64] | None:
    """Where each of Hugging Face's rows of a Q or K projection lies in the file; None where it lies in place.

    ggml's `llama` rotates neighbouring pairs, Hugging Face the two halves of a head, so converters interleave the
    halves of every head: row (h, i, half) of the file is row (h, half, i) of Hugging Face.
    """
    if ".self_attn.q_proj." in t.name:
        heads = facts.num_heads
    elif ".self_attn.k_proj." in t.name:
        heads = facts.num_kv_heads
    else:
        return None
    pairs = np.arange(num_rows, dtype=np.int64).reshape(heads, num_rows // heads // 2, 2)
    return pairs.swapaxes(1, 2).reshape(-1)


def _read(source: BinaryIO, offset: int, nbytes: int) -> Bytes:
    source.seek(offset)
    data = source.read(nbytes)
    if len(data) != nbytes:
        raise CheckpointError("the GGUF file got shorter while it was read", file=source.name)
    return np.frombuffer(data, dtype=np.uint8)


def _cast(rows: Floats, dtype: str, facts: Facts, t: TensorInfo) -> memoryview:
    """float32 rounded to the nearest value of `dtype`, as bytes."""
    cast = narrow(rows, dtype)
    if dtype == "float16" and not np.isfinite(cast).all() and np.isfinite(rows).all():
        fix = "run with dtype bfloat16 or float32"
        raise CheckpointError("a weight is too large for float16", file=facts.path, tensor=t.name, fix=fix)
    return np.ascontiguousarray(cast).data.cast("B")
