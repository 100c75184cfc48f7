"""Headers of GGUF files (version 2 and 3, little-endian), trusting no number in them.

Layout: magic, version, tensor count, metadata count; the metadata (key, type, value); the tensor table (name,
dimensions, type, offset); padding to the alignment; the data. Every count and length is checked against the bytes
that the file really has before anything is read by it.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.files import open_regular
from deploykit.checkpoint.ggml_types import GGML_TYPES, GgmlType

MAX_HEADER_BYTES = 256 << 20
MAX_DIMS = 4
MAX_ENTRIES = 1 << 16  # tensors, and metadata values; real files have a few thousand
MAX_ARRAY_DEPTH = 4
MAX_NAME_BYTES = 1024
MAX_TEXT_BYTES = 16 << 20  # of one text; the longest there are, chat templates, have some ten thousand
MAX_ARRAY_ITEMS = (
    4 << 20
)  # over all arrays of a file; a vocabulary of 256 k tokens and its merges have about 1 M
DEFAULT_ALIGNMENT = 32
_CHUNK = 4 << 20
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: dict[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class GgufTensor(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[int, ...]  # outermost first, as torch and Hugging Face write it (GGUF stores the reverse)
    type: GgmlType
    nbytes: int
    offset: int  # bytes from the file's start
    file: str = ""  # the part that holds it, of a model in several files (gguf_split.py)


class GgufHeader(msgspec.Struct, frozen=True):
    version: int
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]
    alignment: int
    data_start: int
    file_size: int
    digest: str  # sha256 of everything before the data


def read_header(path: Path) -> GgufHeader:
    """The proven header of a GGUF file."""
    with open_regular(path) as f:
        return parse_header(path, f)


def parse_header(path: Path, file: BinaryIO) -> GgufHeader:
    """The same of a file that is open, read from its beginning and no further than needed; `path` is for errors."""
    return _Parser(path, file).parse()


class _Parser:
    """A cursor over the file's beginning, which is read as far as it is needed."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size = file.seek(0, 2)
        file.seek(0)
        self.data = bytearray()
        self.pos = 0
        self.where = "header"
        self.items_left = MAX_ARRAY_ITEMS

    # ---- primitives

    def bad(self, why: str) -> CheckpointError:
        fix = "fetch it again; if it stays so, the file is damaged at its source"
        return CheckpointError(
            "the GGUF header is wrong", file=self.path, why=f"{self.where}: {why}", fix=fix
        )

    def need(self, n: int) -> int:
        """Make sure that n more bytes are read; the position they start at, which is moved past them."""
        start, end = self.pos, self.pos + n
        if end > self.size:
            raise CheckpointError(
                "the GGUF file is cut short",
                file=self.path,
                why=f"{self.where}: byte {end} is needed, the file has {self.size}",
                fix="the file wasn't fetched whole: fetch it again",
            )
        if end > MAX_HEADER_BYTES:
            raise self.bad(f"the header is over the limit of {MAX_HEADER_BYTES} bytes")
        while len(self.data) < end:
            chunk = self.file.read(max(_CHUNK, end - len(self.data)))
            if not chunk:
                raise self.bad("the file got shorter while it was read")
            self.data += chunk
        self.pos = end
        return start

    def u32(self) -> int:
        value: int = _U32.unpack_from(self.data, self.need(4))[0]
        return value

    def u64(self) -> int:
        start = self.need(8)
        value: int = _U64.unpack_from(self.data, start)[0]
        return value

    def count(self, what: str, min_bytes: int) -> int:
        """A count of things that take at least `min_bytes` each, so that the rest of the file bounds it."""
        n = self.u64()
        if n * min_bytes > self.size - self.pos:
            raise self.bad(f"{n} {what} don't fit into the {self.size - self.pos} bytes that are left")
        return n

    def items(self, what: str, min_bytes: int) -> int:
        n = self.count(what, min_bytes)
        self.items_left -= n
        if self.items_left < 0:
            raise self.bad(f"more than {MAX_ARRAY_ITEMS} array items")
        return n

    def text(self, limit: int = MAX_TEXT_BYTES) -> str:
        n = self.count("bytes of text", 1)
        if n > limit:
            raise self.bad(f"text of {n} bytes, the limit is {limit}")
        start = self.need(n)
        try:
            return self.data[start : self.pos].decode()
        except UnicodeDecodeError as e:
            raise self.bad(f"text that isn't UTF-8 ({e.reason})") from None

    # ---- values

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(depth)
        scalar = _SCALARS.get(kind)
        if scalar is None:
            raise self.bad(f"unknown value type {kind}")
        value = scalar.unpack_from(self.data, self.need(scalar.size))[0]
        if kind == _BOOL:
            if value > 1:
                raise self.bad(f"a truth value of {value}")
            return bool(value)
        return value

    def array(self, depth: int) -> list[Any]:
        if depth >= MAX_ARRAY_DEPTH:
            raise self.bad(f"arrays nested deeper than {MAX_ARRAY_DEPTH}")
        kind = self.u32()
        if kind == _STRING:
            return [self.text() for _ in range(self.items("strings", 8))]
        if kind == _ARRAY:
            n = self.items("arrays", 12)
            if n > MAX_ENTRIES:
                raise self.bad(f"{n} arrays in one; the limit is {MAX_ENTRIES}")
            return [self.array(depth + 1) for _ in range(n)]
        scalar = _SCALARS.get(kind)
        if scalar is None:
            raise self.bad(f"unknown array type {kind}")
        n = self.items("values", scalar.size)
        start = self.need(n * scalar.size)
        values = list(struct.unpack_from(f"<{n}{scalar.format[1:]}", self.data, start))
        if kind == _BOOL:
            if any(v > 1 for v in values):
                raise self.bad("a truth value above 1")
            return [bool(v) for v in values]
        return values

    # ---- the whole

    def parse(self) -> GgufHeader:
        if self.size < 24 or bytes(self.data[self.need(4) : 4]) != b"GGUF":
            raise CheckpointError("not a GGUF file", file=self.path, why="it doesn't start with GGUF")
        version = self.u32()
        if version not in (2, 3):
            why = f"version {version}" if version < 1 << 16 else "the file is big-endian"
            fix = "convert the model again with a current converter"
            raise CheckpointError(
                "only GGUF 2 and 3, little-endian, are read", file=self.path, why=why, fix=fix
            )
        num_tensors = self.count("tensors", 24)
        num_values = self.count("metadata values", 13)
        if max(num_tensors, num_values) > MAX_ENTRIES:
            raise self.bad(f"{num_tensors} tensors and {num_values} values; the limit is {MAX_ENTRIES}")
        metadata: dict[str, Any] = {}
        for _ in range(num_values):
            self.where = "metadata"
            key = self.text(65535)
            self.where = f"metadata {printable(key)}"
            if not key or key in metadata:
                raise self.bad("an empty key, or one that stands there twice")
            metadata[key] = self.value(self.u32())
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 8 <= alignment <= 4096 or alignment % 8:
            self.where = "general.alignment"
            raise self.bad(f"{printable(str(alignment))} isn't a multiple of 8 in 8..4096")
        table = [self.tensor_info() for _ in range(num_tensors)]
        data_start = -(-self.pos // alignment) * alignment
        tensors = self.place(table, data_start, alignment)
        digest = hashlib.sha256(memoryview(self.data)[: self.pos]).hexdigest()
        return GgufHeader(version, metadata, tensors, alignment, data_start, self.size, digest)

    def tensor_info(self) -> tuple[str, tuple[int, ...], GgmlType, int]:
        self.where = "tensor table"
        name = self.text(MAX_NAME_BYTES)
        self.where = f"tensor {printable(name)}"
        num_dims = self.u32()
        if not 1 <= num_dims <= MAX_DIMS:
            raise self.bad(f"{num_dims} dimensions, 1 to {MAX_DIMS} are possible")
        dims = tuple(self.u64() for _ in range(num_dims))
        kind = self.u32()
        offset = self.u64()
        if kind not in GGML_TYPES:
            raise self.bad(f"unknown tensor type {kind}")
        ggml = GGML_TYPES[kind]
        if 0 in dims or dims[0] % ggml.block:
            raise self.bad(f"a row of {dims[0]} elements isn't made of {ggml.name} blocks of {ggml.block}")
        return name, dims[::-1], ggml, offset

    def place(
        self, table: list[tuple[str, tuple[int, ...], GgmlType, int]], data_start: int, alignment: int
    ) -> tuple[GgufTensor, ...]:
        """Tensors with proven places: inside the file, aligned, apart from each other, under unique names."""
        tensors: list[GgufTensor] = []
        for name, shape, ggml, offset in table:
            elements = 1
            for n in shape:
                elements *= n
            tensors.append(
                GgufTensor(name, shape, ggml, elements // ggml.block * ggml.nbytes, data_start + offset)
            )
        if len({t.name for t in tensors}) != len(tensors):
            self.where = "tensor table"
            raise self.bad("a name stands there twice")
        end = data_start
        for t in tensors:  # in the order of their data: ggml's own reader asks for that, and for no gaps
            self.where = f"tensor {printable(t.name)}"
            if t.offset + t.nbytes > self.size:
                raise CheckpointError(
                    "the GGUF file is cut short",
                    file=self.path,
                    tensor=t.name,
                    why=f"its data ends at byte {t.offset + t.nbytes}, the file has {self.size}",
                    fix="the file wasn't fetched whole: fetch it again",
                )
            if (t.offset - data_start) % alignment:
                raise self.bad(f"its offset isn't a multiple of {alignment}")
            if t.offset < end:
                raise self.bad("its data overlaps another tensor's")
            if t.offset > end:
                raise self.bad(f"its data leaves a gap of {t.offset - end} bytes")
            end = t.offset + -(-t.nbytes // alignment) * alignment
        return tuple(tensors)
