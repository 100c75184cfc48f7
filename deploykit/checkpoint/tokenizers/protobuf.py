"""The wire format of Protocol Buffers, as far as a SentencePiece model needs it, trusting no number in it.

A message is a sequence of fields: a varint key (field number and wire type), then a varint, 8 bytes, 4 bytes, or a
varint length with so many bytes. Every length is checked against the message that holds it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10  # bytes


class WireError(ValueError):
    """Bytes that aren't a message; says where in it."""


class Field(NamedTuple):
    number: int
    value: int | bytes  # bytes also for the fixed sizes

    def integer(self) -> int:
        if not isinstance(self.value, int):
            raise WireError(f"field {self.number} isn't an integer")
        return self.value

    def signed(self) -> int:
        """int32, whose negative values are written as 64 bits."""
        value = self.integer() & 0xFFFFFFFFFFFFFFFF
        return value - (1 << 64) if value >> 63 else value

    def flag(self) -> bool:
        return self.integer() != 0

    def data(self) -> bytes:
        if not isinstance(self.value, bytes):
            raise WireError(f"field {self.number} isn't a sequence of bytes")
        return self.value

    def text(self) -> str:
        try:
            return self.data().decode()
        except UnicodeDecodeError as error:
            raise WireError(f"field {self.number} isn't UTF-8 ({error.reason})") from None

    def float32(self) -> float:
        data = self.data()
        if len(data) != 4:
            raise WireError(f"field {self.number} isn't a 32-bit number")
        value: float = struct.unpack("<f", data)[0]
        return value


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a message in order. Raises WireError where it doesn't hold together."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise WireError(f"a field number of {number} at byte {position}")
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield Field(number, value)
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise WireError(f"an unknown wire type {wire} at byte {position}")
        if size > end - position:
            raise WireError(f"field {number} is cut short: {size} bytes wanted, {end - position} left")
        yield Field(number, message[position : position + size])
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for i in range(_MAX_VARINT):
        if position + i >= len(message):
            raise WireError(f"a number is cut short at byte {position}")
        byte = message[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise WireError(f"a number of more than {_MAX_VARINT} bytes at byte {position}")
