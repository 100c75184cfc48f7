"""A thousand damaged checkpoints, each with one lie that is surely one: an error that names the file, and no other.

Lies about a tensor name the tensor too. The damage is made of the parsed file, not of bytes at random (that is in
test_checkpoint_gguf.py and test_checkpoint_safetensors.py), so that every single file must be refused.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoint_files import CONFIG, llama_tensors, metadata
from gguf_writer import TYPE_IDS, text, value

from deploykit.checkpoint import CheckpointError, read_facts

HUGE = (2**31 - 1, 2**32 - 1, 2**32, 2**40, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
Case = tuple[str, str | None, bytes]  # what, the tensor that must be named, the file

# ---------------------------------------------------------------- GGUF


def gguf_parts() -> tuple[dict[str, bytes], list[list[Any]], bytes]:
    """Metadata (as written), the table [name, dims, type, offset], data."""
    values = {key: v if isinstance(v, bytes) else value(v) for key, v in metadata().items()}
    table: list[list[Any]] = []
    data = b""
    for name, kind, shape, raw in llama_tensors():
        table.append([name, list(shape[::-1]), TYPE_IDS[kind], len(data)])
        data += raw + bytes(-len(raw) % 32)
    return values, table, data


def gguf_file(
    values: dict[str, bytes] | list[tuple[str, bytes]],
    table: list[list[Any]],
    data: bytes,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: int | None = None,
    count: int | None = None,
) -> bytes:
    pairs = list(values.items()) if isinstance(values, dict) else values
    out = magic + struct.pack("<I", version)
    out += struct.pack(
        "<QQ", len(table) if tensors is None else tensors, len(pairs) if count is None else count
    )
    for key, raw in pairs:
        out += text(key) + raw
    for name, dims, kind, offset, *rest in table:
        named = text(name) if isinstance(name, str) else name
        out += (
            named + struct.pack("<I", rest[0] if rest else len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        )
        out += struct.pack("<IQ", kind, offset)
    return out + bytes(-len(out) % 32) + data


def gguf_lies() -> Iterator[Case]:
    values, table, data = gguf_parts()
    rng = random.Random(1)

    def changed(index: int, position: int, new: Any) -> bytes:
        rows = [list(row) for row in table]
        rows[index][position] = new
        return gguf_file(values, rows, data)

    for index, (name, dims, kind, offset) in enumerate(table):
        for huge in rng.sample(HUGE, 4):
            yield "offset", name, changed(index, 3, huge // 32 * 32)
        yield "offset not aligned", name, changed(index, 3, offset + 8)
        yield "offset of another", None, changed(index, 3, table[index - 1][3])
        for huge in rng.sample(HUGE, 3):
            yield "rows", name, changed(index, 1, [dims[0], huge] if len(dims) > 1 else [huge])
            yield "columns", name, changed(index, 1, [huge // 256 * 256, *dims[1:]])
        yield "zero", name, changed(index, 1, [0, *dims[1:]])
        yield "five dimensions", name, changed(index, 1, [*dims, *[1] * (5 - len(dims))])
        yield "one dimension more", None, changed(index, 1, [*dims, 2])
        for strange in (4, 5, 31, 36, 1000, 2**32 - 1):
            yield "type", name, changed(index, 2, strange)
        if index + 1 < len(table) or kind != TYPE_IDS["F32"]:  # bytes behind the last tensor are no lie
            other = "F16" if kind == TYPE_IDS["F32"] else "F32"
            yield "type of other bytes", None, changed(index, 2, TYPE_IDS[other])
        yield "twice", None, gguf_file(values, [*table, [name, [8], 0, len(data)]], data + bytes(32))
        yield "strange name", None, changed(index, 0, f"blk.0.strange_{index}.weight")
        yield "name not text", None, changed(index, 0, struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc")
        yield "long name", None, changed(index, 0, text("x" * 2000))
        yield "missing", None, gguf_file(values, table[:index] + table[index + 1 :], data)
    for key, raw in values.items():
        rest = [(k, v) for k, v in values.items() if k != key]
        yield f"{key} twice", None, gguf_file([*values.items(), (key, raw)], table, data)
        yield (
            f"{key} of no type",
            None,
            gguf_file([*rest, (key, struct.pack("<I", 13) + bytes(8))], table, data),
        )
        long = struct.pack("<IQ", 8, rng.choice(HUGE[2:]))
        yield f"{key} as long text", None, gguf_file([*rest, (key, long)], table, data)
        array = struct.pack("<IIQ", 9, rng.choice((0, 4, 8, 9, 12)), rng.choice(HUGE[2:]))
        yield f"{key} as long array", None, gguf_file([*rest, (key, array)], table, data)
        if key.startswith("llama.") and key != "llama.rope.freq_base":
            for wrong in (0, -1, 2**31, "4", [4], 4.5, True):
                yield f"{key} {wrong}", None, gguf_file([*rest, (key, value(wrong))], table, data)
    for huge in HUGE:
        yield "tensor count", None, gguf_file(values, table, data, tensors=huge)
        yield "value count", None, gguf_file(values, table, data, count=huge)
    whole = gguf_file(values, table, data)
    for i in range(120):
        yield "cut", None, whole[: rng.randrange(len(whole)) if i % 2 else rng.randrange(6000)]
    for version in (0, 1, 4, 2**24 * 3, 2**32 - 1):
        yield "version", None, gguf_file(values, table, data, version=version)


# ---------------------------------------------------------------- safetensors


def safetensors_parts() -> tuple[dict[str, Any], bytes]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    shapes = {"model.embed_tokens.weight": [32, 8], "model.norm.weight": [8], "lm_head.weight": [32, 8]}
    shapes |= {f"model.layers.0.{name}.weight": [8, 8] for name in ("q", "k", "v", "o", "up", "down")}
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += bytes(size)
    return header, data


def safetensors_file(header: Any, data: bytes, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def safetensors_lies() -> Iterator[Case]:
    header, data = safetensors_parts()
    rng = random.Random(2)
    names = [n for n in header if n != "__metadata__"]

    def changed(name: str, **entry: Any) -> bytes:
        return safetensors_file({**header, name: {**header[name], **entry}}, data)

    for name in names:
        begin, end = header[name]["data_offsets"]
        shape = header[name]["shape"]
        for huge in rng.sample(HUGE, 4):
            yield "end", name, changed(name, data_offsets=[begin, huge])
            yield "begin", name, changed(name, data_offsets=[huge, end])
            yield "both", name, changed(name, data_offsets=[huge, huge + end - begin])
            yield "shape", name, changed(name, shape=[huge, *shape[1:]])
        for wrong in (
            [end, begin],
            [-4, end],
            [begin],
            [begin, end, 0],
            [begin + 0.5, end],
            ["0", end],
            None,
            True,
        ):
            yield "offsets", name, changed(name, data_offsets=wrong)
        for wrong in (
            [*shape, 2],
            [-s for s in shape],
            [float(s) for s in shape],
            "8",
            None,
            [[8]],
            [1] * 40,
            [True],
        ):
            yield "shape", name, changed(name, shape=wrong)
        for wrong in ("F33", "f32", "", None, 32, ["F32"], "F16", "F64", "F4", "\x1b[31m"):
            yield "dtype", name, changed(name, dtype=wrong)
        yield "extra", name, changed(name, surprise=1)
        yield "entry", name, safetensors_file({**header, name: [1]}, data)
        yield "gap", None, safetensors_file({n: e for n, e in header.items() if n != name}, data)
        double = json.dumps(header)[:-1] + f', "{name}": ' + json.dumps(header[name]) + "}"
        yield "twice", None, safetensors_file(double.encode(), data)
        overlap = [max(0, begin - 4), max(0, begin - 4) + end - begin]
        if begin:
            yield "overlap", None, changed(name, data_offsets=overlap)
    whole = safetensors_file(header, data)
    for i in range(100):
        yield (
            "cut",
            None,
            whole[: rng.randrange(len(whole)) if i % 2 else rng.randrange(len(whole) - len(data))],
        )
    for huge in (*HUGE, 100_000_001, len(whole)):
        yield "length", None, safetensors_file(header, data, length=huge)
    for bad in (
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}}",
        b'{"a":' * 5000,
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"a":NaN}',
        b" {}",
    ):
        yield "json", None, safetensors_file(bad, data)
    for strange in ([], "pt", {"format": 1}, {"format": {"a": {}}}):
        yield "metadata", None, safetensors_file({**header, "__metadata__": strange}, data)
    yield "data behind", None, whole + b"\0"


def index_lies() -> Iterator[tuple[str, Any]]:
    good = "model-00001-of-00001.safetensors"
    names = [n for n in safetensors_parts()[0] if n != "__metadata__"]
    for wrong in (
        "../x.safetensors",
        "/etc/passwd",
        "/dev/zero",
        "a/b.safetensors",
        "",
        ".",
        "x.bin",
        None,
        3,
        [],
        {},
    ):
        for name in names:
            yield "file", {"weight_map": {**dict.fromkeys(names, good), name: wrong}}
    yield "unknown tensor", {"weight_map": {**dict.fromkeys(names, good), "model.surprise": good}}
    for wrong in (None, [], {}, "x", 1):
        yield "map", {"weight_map": wrong}


GGUF, SAFETENSORS, INDEX = list(gguf_lies()), list(safetensors_lies()), list(index_lies())


def test_there_are_a_thousand() -> None:
    assert len(GGUF) + len(SAFETENSORS) + len(INDEX) >= 1000


def error_of(model: Path) -> str | None:
    try:
        read_facts(model)
    except CheckpointError as e:
        return str(e)
    return None


def refused(path: Path, model: Path, what: str, tensor: str | None) -> None:
    message = error_of(model)
    assert message is not None, f"{what}: not refused"
    assert path.name in message, what
    assert tensor is None or tensor in message, what
    assert "\x1b" not in message, what
    assert len(message) < 2000, what


def test_gguf_files_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_file(*gguf_parts()))
    assert read_facts(path)
    for what, tensor, data in GGUF:
        path.write_bytes(data)
        refused(path, path, what, tensor)


def test_safetensors_files_that_lie(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_file(*safetensors_parts()))
    assert read_facts(tmp_path)
    for what, tensor, data in SAFETENSORS:
        path.write_bytes(data)
        refused(path, tmp_path, what, tensor)


def test_more_entries_than_a_model_has(tmp_path: Path) -> None:
    """Files that are really as large as they say, and still nothing that should be turned into objects."""
    path = tmp_path / "m.gguf"
    values, table, data = gguf_parts()
    nested = struct.pack("<IIQ", 9, 9, 100_000) + struct.pack("<IQ", 4, 0) * 100_000
    path.write_bytes(gguf_file({**values, "x": nested}, table, data))
    refused(path, path, "nested arrays", None)
    entries = b"".join(text(f"{i}") + struct.pack("<IQIQ", 1, 8, 0, 32 * i) for i in range(70_000))
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 70_000, 0) + entries + bytes(32 * 70_000))
    refused(path, path, "tensors", None)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_file(b'{"a":{"data_offsets":[]},' * 300_000, b""))
    refused(path, tmp_path, "too many tensors", None)


def test_indexes_that_lie(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(safetensors_file(*safetensors_parts()))
    path = tmp_path / "model.safetensors.index.json"
    for what, content in INDEX:
        path.write_text(json.dumps(content))
        assert error_of(tmp_path) is not None, what
