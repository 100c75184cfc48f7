"""What the facts of a model are made from, read from the beginnings of its files: headers, and none of its weights.

The files may lie anywhere that can be read from the beginning on: `hub.heads` gives those of a hub.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, cast

from deploykit.checkpoint import gguf, safetensors
from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.files import MAX_JSON_BYTES

MAX_TEXT_BYTES = 64 << 20  # as tokenizer_config.json may have
_FIRST_PIECE = 64 << 10  # bytes of a GGUF file; doubled with each one
_LAST_PIECE = 4 << 20
# What says what a model is. A vocabulary is none of them: it is as large as a small model's weights.
_SMALL = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "chat_template.json",
        "quantize_config.json",
        "quant_config.json",
        "hf_quant_config.json",
        "adapter_config.json",
        "params.json",
        "preprocessor_config.json",
        "processor_config.json",
        safetensors.INDEX,
    }
)


def wanted(name: str) -> bool:
    """Whether facts are made from the file `name` of a model."""
    return name in _SMALL or name.endswith((".safetensors", ".gguf", ".jinja"))


def read_head(name: str, file: BinaryIO) -> None:
    """Read as much of `file`, from its beginning, as the facts of its model are made from.

    A safetensors file's 8 bytes and header; a GGUF file's metadata and tensor table, in growing pieces; JSON and
    templates whole. Raises CheckpointError for what claims to be larger than such a thing may be, or is none.
    """
    if name.endswith(".safetensors"):
        _read_safetensors(Path(name), file)
    elif name.endswith(".gguf"):
        gguf.parse_header(Path(name), cast(BinaryIO, _Growing(file)))
    else:
        _read_whole(name, file)


def _read_safetensors(path: Path, file: BinaryIO) -> None:
    size = _size(file)
    prefix = _exactly(path, file, 8, size)
    (length,) = struct.unpack("<Q", prefix)
    if length > safetensors.MAX_HEADER_BYTES:
        why = f"the header claims {length} bytes, the limit is {safetensors.MAX_HEADER_BYTES}"
        raise CheckpointError("not a safetensors file", file=path, why=why)
    _exactly(path, file, length, size - 8)


def _exactly(path: Path, file: BinaryIO, count: int, left: int) -> bytes:
    if count > left:
        raise CheckpointError(
            "the safetensors file is cut short", file=path, why=f"{count} bytes are needed, {left} are left"
        )
    data = b""
    while len(data) < count:
        piece = file.read(count - len(data))
        if not piece:
            raise CheckpointError("the file got shorter while it was read", file=path)
        data += piece
    return data


def _read_whole(name: str, file: BinaryIO) -> None:
    limit = MAX_TEXT_BYTES
    if name == safetensors.INDEX:
        limit = safetensors.MAX_HEADER_BYTES
    elif name == "config.json":
        limit = MAX_JSON_BYTES
    size = _size(file)
    if size > limit:
        raise CheckpointError(
            f"the file is over the limit of {limit} bytes", file=Path(name), why=f"it has {size}"
        )
    while size > 0:
        piece = file.read(size)
        if not piece:
            raise CheckpointError("the file got shorter while it was read", file=Path(name))
        size -= len(piece)


def _size(file: BinaryIO) -> int:
    size = file.seek(0, 2)
    file.seek(0)
    return size


class _Growing:
    """A file that gives little at first and more with each read: a small header doesn't cost a large piece."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._piece = _FIRST_PIECE

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def read(self, count: int) -> bytes:
        data = self._file.read(min(count, self._piece))
        self._piece = min(_LAST_PIECE, self._piece * 2)
        return data
