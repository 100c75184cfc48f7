"""A GGUF file dequantized once into a safetensors file in the cache, whole or not at all.

Tensors are cut into pieces that fit a core's cache; threads read, dequantize and write them at their places.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deploykit.checkpoint import content
from deploykit.checkpoint.dequant import Bytes, Floats, dequantize, narrow
from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.checkpoint.files import member
from deploykit.checkpoint.gguf_families import ALTERNATE_TRANSPOSED, PAIRS, PLUS_ONE, TRANSPOSED
from deploykit.checkpoint.joined import wholes
from deploykit.checkpoint.layouts import pair_rows
from deploykit.checkpoint.raw import RawReader
from deploykit.checkpoint.safetensors_write import allocate, cores, disk_full, header_of, is_full, put
from deploykit.fsutil import file_lock
from deploykit.hub.disk import require_space
from deploykit.hub.split import parts_of

CONVERTER_VERSION = 2  # raise it when the same file would convert to other bytes
TARGETS = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float16": ("F16", 2)}
_PLAIN = ("float32", "float16", "bfloat16")
_TRANSPOSED = (TRANSPOSED, ALTERNATE_TRANSPOSED)
Narrowed = npt.NDArray[np.generic]
_CHUNK_ELEMENTS = 128 << 10  # a piece and its temporaries fit a core's second-level cache
_BATCH_ELEMENTS = 2 << 20  # of one task: fewer of them, less waiting for the interpreter
_MAX_THREADS = 8


def cache_key(facts: Facts) -> str:
    """Names a GGUF model by its content, wherever it lies: sha256 of its bytes."""
    return _digest(facts)[:32]


def converted_file(facts: Facts, dtype: str, cache: Path) -> Path:
    """The safetensors file of a GGUF in `dtype`, made when it isn't there; another process's work is waited for."""
    key = _digest(facts, cache)[:32]
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


def _digest(facts: Facts, cache: Path | None = None) -> str:
    """sha256 of the file's bytes; of a model in parts, that of theirs."""
    path = Path(facts.path)
    names = parts_of(path.name) if any(t.file != path.name for t in facts.tensors) else ()
    if not names:
        return content.digest(path, cache)
    digests = (content.digest(member(path.parent, name), cache) for name in names)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _discard(partial: Path) -> None:
    with contextlib.suppress(OSError):
        partial.unlink()
        partial.parent.rmdir()


class _Task(NamedTuple):
    parts: tuple[TensorInfo, ...]  # mostly one; of two, the columns alternate in the output
    first: int  # row
    rows: int
    offset: int  # of the first row in the output, bytes


def _write(facts: Facts, dtype: str, out: int) -> None:
    name, size = TARGETS[dtype]
    header = header_of({w.name: (name, w.shape, w.num_elements * size) for w in wholes(facts.tensors)})
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
    """All tensors cut into tasks of whole rows; what changes its order on the way is cut into matrices at most."""
    for whole in wholes(facts.tensors):
        t, count = whole.parts[0], len(whole.parts)
        rows, columns = _matrix(t)
        if t.layout in _TRANSPOSED:
            step = t.shape[-1]
        else:
            step = rows if t.layout == PAIRS else max(1, _BATCH_ELEMENTS // columns)
        for first in range(0, rows, step):
            yield _Task(whole.parts, first, min(step, rows - first), offset + count * first * columns * size)
        offset += whole.num_elements * size


def _matrix(t: TensorInfo) -> tuple[int, int]:
    """(rows, columns) as they lie in the file. A vector of plain numbers is a column: biases are permuted too."""
    if len(t.shape) == 1 and t.dtype in _PLAIN:
        return t.num_elements, 1
    columns = t.shape[-2] if t.layout in _TRANSPOSED else t.shape[-1]
    return t.num_elements // columns, columns


def _run(task: _Task, reader: RawReader, facts: Facts, dtype: str, out: int) -> None:
    t = task.parts[0]
    if t.layout in _TRANSPOSED or len(task.parts) > 1:
        put(out, _bytes(_moved(task, reader, facts, dtype)), task.offset)
        return
    rows, columns = _matrix(t)  # of the whole tensor
    blocks = _read(reader, t, task)
    if t.layout == PAIRS:
        blocks = blocks[pair_rows(rows, facts.head_dim)]
    step = max(1, _CHUNK_ELEMENTS // columns)
    at = task.offset
    for first in range(0, task.rows, step):
        values = dequantize(blocks[first : first + step], t.dtype)
        if t.layout == PLUS_ONE:
            values = values - np.float32(1)
        at += put(out, _bytes(_narrow(values, dtype, facts, t)), at)


def _moved(task: _Task, reader: RawReader, facts: Facts, dtype: str) -> Narrowed:
    """The task's rows transposed, or with the columns of its parts in turn, or both."""
    columns = _matrix(task.parts[0])[1]
    transposed = task.parts[0].layout in _TRANSPOSED
    shape = (columns, task.rows) if transposed else (task.rows, columns)
    result = np.empty((*shape, len(task.parts)), narrow(np.empty(0, np.float32), dtype).dtype)
    for index, t in enumerate(task.parts):
        blocks = _read(reader, t, task)
        step = max(1, _CHUNK_ELEMENTS // columns)
        for first in range(0, task.rows, step):
            values = _narrow(dequantize(blocks[first : first + step], t.dtype), dtype, facts, t)
            if transposed:
                result[:, first : first + step, index] = values.T
            else:
                result[first : first + step, :, index] = values
    return result


def _read(reader: RawReader, t: TensorInfo, task: _Task) -> Bytes:
    """The task's rows as they are stored: uint8[rows, row_bytes]."""
    row_bytes = t.nbytes // _matrix(t)[0]
    raw = np.empty(task.rows * row_bytes, dtype=np.uint8)
    reader.read(t, raw, task.first * row_bytes)
    return raw.reshape(task.rows, row_bytes)


def _narrow(values: Floats, dtype: str, facts: Facts, t: TensorInfo) -> Narrowed:
    """float32 rounded to the nearest value of `dtype`."""
    cast = narrow(values, dtype)
    if dtype == "float16" and not np.isfinite(cast).all() and np.isfinite(values).all():
        fix = "run with dtype bfloat16 or float32"
        raise CheckpointError("a weight is too large for float16", file=facts.path, tensor=t.name, fix=fix)
    return cast


def _bytes(values: Narrowed) -> memoryview:
    return np.ascontiguousarray(values).data.cast("B")
