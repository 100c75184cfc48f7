"""Headers of safetensors files, trusting no number in them.

Format: a little-endian uint64 header length, that many bytes of JSON (`{name: {dtype, shape, data_offsets}}`), then
the data, which the tensors cover without gap or overlap.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.facts import TensorInfo
from deploykit.checkpoint.files import exists, member, open_regular, read_json

MAX_HEADER_BYTES = 100_000_000
MAX_DIMS = 16
MAX_TENSORS = 1 << 18  # of one file; the largest models have a hundred thousand in all
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# name in the file -> (our name, bits an element)
DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F32": ("float32", 32),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "F4": ("float4_e2m1fn", 4),
}


class SafetensorsHeader(msgspec.Struct, frozen=True):
    tensors: tuple[TensorInfo, ...]  # in the order of their offsets; `offset` counts from the file's start
    metadata: dict[str, str]
    data_start: int
    file_size: int


def read_header(path: Path) -> SafetensorsHeader:
    """The proven header of one file: every tensor lies inside it, with the size its shape and dtype ask for."""
    with open_regular(path) as f:
        file_size = f.seek(0, 2)
        f.seek(0)
        prefix = f.read(8)
        if len(prefix) < 8:
            raise _truncated(
                path, f"it has {file_size} bytes; a safetensors file starts with 8 bytes of length"
            )
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            why = f"the header claims {length} bytes, the limit is {MAX_HEADER_BYTES}"
            raise CheckpointError("not a safetensors file", file=path, why=why)
        if 8 + length > file_size:
            raise _truncated(path, f"the header claims {length} bytes, the file has {file_size}")
        raw = f.read(length)
    count = raw.count(b"data_offsets")  # before the text becomes a million objects
    if count > MAX_TENSORS:
        why = f"{count}, the limit is {MAX_TENSORS}"
        raise CheckpointError("too many tensors in a file", file=path, why=why)
    entries = _parse_json(path, raw)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("__metadata__ isn't a map of text to text", file=path)
    data_start = 8 + length
    tensors = [_tensor(path, name, entry, data_start, file_size) for name, entry in entries.items()]
    tensors.sort(key=lambda t: (t.offset, t.nbytes))
    end = data_start
    for t in tensors:
        if t.offset != end:
            kind = "overlap" if t.offset < end else "leave a gap"
            raise CheckpointError(f"tensors {kind}", file=path, tensor=t.name, why=f"at byte {t.offset}")
        end += t.nbytes
    if end != file_size:
        why = f"the tensors end at byte {end}, the file at byte {file_size}"
        raise CheckpointError("bytes that belong to no tensor", file=path, why=why)
    return SafetensorsHeader(tuple(tensors), metadata, data_start, file_size)


def read_folder(folder: Path) -> tuple[TensorInfo, ...]:
    """The tensors of `model.safetensors`, or of the shards of its index, which must agree with it."""
    if not exists(folder, INDEX):
        if not exists(folder, SINGLE):
            raise CheckpointError(
                "no safetensors weights", file=folder, why=f"neither {SINGLE} nor {INDEX} is there"
            )
        return read_header(member(folder, SINGLE)).tensors
    index_path = member(folder, INDEX)
    weight_map = read_json(index_path, MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("the index has no weight_map", file=index_path)
    shards: set[str] = set()
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors"):
            why = f"it is mapped to {printable(str(shard))!r}, which isn't the name of a .safetensors file"
            raise CheckpointError("the index is wrong", file=index_path, tensor=name, why=why)
        shards.add(shard)
    found: dict[str, TensorInfo] = {}
    for shard in sorted(shards):
        path = member(folder, shard)
        if not exists(folder, shard):
            fix = "fetch the model again, whole"
            raise CheckpointError(
                "a shard of the model is missing", file=path, why=f"{INDEX} names it", fix=fix
            )
        for t in read_header(path).tensors:
            if weight_map.get(t.name, shard) != shard or t.name in found:
                why = "two shards hold it, or the index names another one"
                raise CheckpointError("the shards and the index disagree", file=path, tensor=t.name, why=why)
            found[t.name] = t
    for name, shard in weight_map.items():
        if name not in found:
            why = f"{INDEX} says that it is in {shard}, and it isn't"
            raise CheckpointError("the shards and the index disagree", file=index_path, tensor=name, why=why)
    return tuple(found.values())


def _truncated(path: Path, why: str) -> CheckpointError:
    fix = "the file wasn't fetched whole: fetch it again"
    return CheckpointError("the safetensors file is cut short", file=path, why=why, fix=fix)


def _parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name stands there twice")
        return table

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} isn't JSON")

    try:
        if not raw.startswith(b"{"):
            raise ValueError("the header doesn't start with {")
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise CheckpointError("the header is nested too deeply", file=path) from None
    except ValueError as e:
        raise CheckpointError("the header isn't valid JSON", file=path, why=printable(str(e), 300)) from None
    if not isinstance(value, dict):
        raise CheckpointError("the header isn't a JSON object", file=path)
    return value


def _tensor(path: Path, name: str, entry: Any, data_start: int, file_size: int) -> TensorInfo:
    def bad(why: str) -> CheckpointError:
        return CheckpointError("the header is wrong", file=path, tensor=name, why=why)

    try:
        name.encode()
    except UnicodeEncodeError:
        raise bad("its name isn't valid text") from None
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise bad("an entry has exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise bad(f"unknown dtype {printable(str(dtype))!r}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(_is_size(n) for n in shape):
        raise bad(f"the shape isn't a list of at most {MAX_DIMS} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
        raise bad("data_offsets isn't a pair of sizes")
    begin, end = offsets
    our_name, bits = DTYPES[dtype]
    for n in shape:
        bits *= n
    if bits % 8 or end - begin != bits // 8:
        raise bad(f"{dtype}{shape} takes {bits / 8:.0f} bytes, data_offsets give {end - begin}")
    if data_start + end > file_size:
        raise CheckpointError(
            "the safetensors file is cut short",
            file=path,
            tensor=name,
            why=f"its data ends at byte {data_start + end}, the file has {file_size}",
            fix="the file wasn't fetched whole: fetch it again",
        )
    return TensorInfo(name, tuple(shape), our_name, end - begin, path.name, data_start + begin)


def _is_size(n: Any) -> bool:
    return type(n) is int and 0 <= n < 2**63
