"""Writes GGUF files for tests: the format's own layout, with every number open to lies."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploykit.checkpoint.ggml_types import BY_NAME, GGML_TYPES

TYPE_IDS = {t.name: i for i, t in GGML_TYPES.items()}
GgufTensorSpec = tuple[str, str, tuple[int, ...], bytes]  # name, ggml type, shape (outermost first), data


def text(s: str) -> bytes:
    data = s.encode()
    return struct.pack("<Q", len(data)) + data


def value(v: Any) -> bytes:
    """Type and value: bool, int (uint32, or int64 where it doesn't fit), float (float32), str, list of one kind."""
    if isinstance(v, list):
        kinds = {value(item)[:4] for item in v}
        kind = kinds.pop() if len(kinds) == 1 else struct.pack("<I", 5)
        return (
            struct.pack("<I", 9) + kind + struct.pack("<Q", len(v)) + b"".join(value(item)[4:] for item in v)
        )
    if isinstance(v, bool):
        return struct.pack("<IB", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v) if 0 <= v < 2**32 else struct.pack("<Iq", 11, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    return struct.pack("<I", 8) + text(v)


def int32_list(values: Sequence[int]) -> bytes:
    return struct.pack("<IIQ", 9, 5, len(values)) + struct.pack(f"<{len(values)}i", *values)


def gguf_bytes(
    metadata: dict[str, Any], tensors: Sequence[GgufTensorSpec] = (), *, version: int = 3, alignment: int = 32
) -> bytes:
    """A whole file. Metadata given as bytes is written as it is (type and value)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, v in metadata.items():
        out += text(key) + (v if isinstance(v, bytes) else value(v))
    data = b""
    for name, kind, shape, raw in tensors:
        t = BY_NAME[kind]
        elements = 1
        for n in shape:
            elements *= n
        assert len(raw) == elements // t.block * t.nbytes, name
        out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        out += struct.pack("<IQ", TYPE_IDS[kind], len(data))
        data += raw + b"\0" * (-len(raw) % alignment)
    return out + b"\0" * (-len(out) % alignment) + data


def write_gguf(
    path: Path, metadata: dict[str, Any], tensors: Sequence[GgufTensorSpec] = (), **kwargs: Any
) -> Path:
    path.write_bytes(gguf_bytes(metadata, tensors, **kwargs))
    return path
