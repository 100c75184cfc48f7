"""A GGUF file dequantized once into a safetensors file in the cache, whole or not at all.

Tensors are cut into pieces that fit a core's cache; threads read, dequantize and write them at their places.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deploykit.checkpoint import content
from deploykit.checkpoint.dequant import Floats, dequantize, narrow
from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.checkpoint.gguf_families import PAIRS, PLUS_ONE, TRANSPOSED
from deploykit.checkpoint.layouts import pair_rows
from deploykit.checkpoint.raw import RawReader
from deploykit.checkpoint.safetensors_write import allocate, cores, disk_full, header_of, is_full, put
from deploykit.fsutil import file_lock
from deploykit.hub.disk import require_space

CONVERTER_VERSION = 2  # raise it when the same file would convert to other bytes
TARGETS = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float16": ("F16", 2)}
_PLAIN = ("float32", "float16", "bfloat16")
_CHUNK_ELEMENTS = 128 << 10  # a piece and its temporaries fit a core's second-level cache
_BATCH_ELEMENTS = 2 << 20  # of one task: fewer of them, less waiting for the interpreter
_MAX_THREADS = 8


def cache_key(facts: Facts) -> str:
    """Names a GGUF file by its content, wherever it lies: sha256 of its bytes."""
    return content.digest(Path(facts.path))[:32]


def converted_file(facts: Facts, dtype: str, cache: Path) -> Path:
    """The safetensors file of a GGUF in `dtype`, made when it isn't there; another process's work is waited for."""
    key = content.digest(Path(facts.path), cache)[:32]
    folder = cache / "converted" / f"{key}-{CONVERTER_VERSION}-{dtype}"
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
            with open(partial, "wb") as out:
                _write(facts, dtype, out.fileno())
                os.fsync(out.fileno())
            os.replace(partial, target)
        except OSError as error:
            _discard(partial)
            raise (disk_full(target, nbytes, error) if is_full(error) else error) from None
        except BaseException:
            _discard(partial)
            raise
    return target


def _discard(partial: Path) -> None:
    with contextlib.suppress(OSError):
        partial.unlink()
        partial.parent.rmdir()


class _Task(NamedTuple):
    tensor: TensorInfo
    first: int  # row
    rows: int
    offset: int  # of the first row in the output, bytes


def _write(facts: Facts, dtype: str, out: int) -> None:
    name, size = TARGETS[dtype]
    header = header_of({t.name: (name, t.shape, t.num_elements * size) for t in facts.tensors})
    allocate(out, len(header) + sum(t.num_elements for t in facts.tensors) * size)
    put(out, header, 0)
    threads = max(1, min(_MAX_THREADS, cores()))
    with RawReader(facts) as reader, ThreadPoolExecutor(threads, thread_name_prefix="dequantize") as pool:
        reader.open_all()  # from here on reading is positional, and safe from several threads
        lanes = [
            pool.submit(_run, task, reader, facts, dtype, out) for task in _tasks(facts, len(header), size)
        ]
        try:
            for lane in lanes:
                lane.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        reader.check_unchanged()


def _tasks(facts: Facts, offset: int, size: int) -> Iterator[_Task]:
    """All tensors cut into tasks of whole rows; a tensor that changes its order on the way is one task."""
    for t in facts.tensors:
        rows, columns = _matrix(t)
        step = rows if t.layout in (PAIRS, TRANSPOSED) else max(1, _BATCH_ELEMENTS // columns)
        for first in range(0, rows, step):
            yield _Task(t, first, min(step, rows - first), offset + first * columns * size)
        offset += t.num_elements * size


def _matrix(t: TensorInfo) -> tuple[int, int]:
    """(rows, columns) as they lie in the file. A vector of plain numbers is a column: biases are permuted too."""
    shape = t.shape[::-1] if t.layout == TRANSPOSED else t.shape
    columns = shape[-1] if len(shape) > 1 or t.dtype not in _PLAIN else 1
    return t.num_elements // columns, columns


def _run(task: _Task, reader: RawReader, facts: Facts, dtype: str, out: int) -> None:
    t = task.tensor
    rows, columns = _matrix(t)  # of the whole tensor
    row_bytes = t.nbytes // rows
    raw = np.empty(task.rows * row_bytes, dtype=np.uint8)
    reader.read(t, raw, task.first * row_bytes)
    blocks = raw.reshape(task.rows, row_bytes)
    if t.layout == PAIRS:
        blocks = blocks[pair_rows(rows, facts.head_dim)]
    if t.layout == TRANSPOSED:
        put(out, _cast(np.ascontiguousarray(dequantize(blocks, t.dtype).T), dtype, facts, t), task.offset)
        return
    step = max(1, _CHUNK_ELEMENTS // columns)
    at = task.offset
    for first in range(0, task.rows, step):
        values = dequantize(blocks[first : first + step], t.dtype)
        if t.layout == PLUS_ONE:
            values = values - np.float32(1)
        at += put(out, _cast(values, dtype, facts, t), at)


def _cast(values: Floats, dtype: str, facts: Facts, t: TensorInfo) -> memoryview:
    """float32 rounded to the nearest value of `dtype`, as bytes."""
    cast = narrow(values, dtype)
    if dtype == "float16" and not np.isfinite(cast).all() and np.isfinite(values).all():
        fix = "run with dtype bfloat16 or float32"
        raise CheckpointError("a weight is too large for float16", file=facts.path, tensor=t.name, fix=fix)
    return np.ascontiguousarray(cast).data.cast("B")
