"""Frames on a local stream socket: a 4-byte little-endian length, then one msgpack message.

The socket is a Unix socket with mode 0600 inside a folder with mode 0700; nothing here ever unpickles.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import msgspec

from deploykit.engine.protocol import encode

MAX_FRAME = 64 << 20  # bytes; a longer frame is a protocol error
MAX_SOCKET_PATH = 100  # bytes; the kernel's own limit is 108 with the terminator
_LENGTH = struct.Struct("<I")


class ProtocolError(Exception):
    """The peer sent something that is no frame of this protocol."""


def frame(message: msgspec.Struct) -> bytes:
    """One message as it goes on the wire."""
    body = encode(message)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"message of {len(body)} bytes is over the limit of {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Cuts a byte stream into frame bodies."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes; the bodies that are now whole."""
        self._data += data
        bodies: list[bytes] = []
        start = 0
        while len(self._data) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data, start)
            if length > MAX_FRAME:
                raise ProtocolError(f"frame of {length} bytes is over the limit of {MAX_FRAME}")
            end = start + _LENGTH.size + length
            if len(self._data) < end:
                break
            bodies.append(bytes(self._data[start + _LENGTH.size : end]))
            start = end
        del self._data[:start]
        return bodies


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next frame's body. Raises asyncio.IncompleteReadError at the end of the stream."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_FRAME:
        raise ProtocolError(f"frame of {length} bytes is over the limit of {MAX_FRAME}")
    return await reader.readexactly(length)


def listen(path: Path) -> socket.socket:
    """A listening Unix socket at `path`, 0600; a stale socket file is replaced."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ProtocolError(f"socket path is longer than {MAX_SOCKET_PATH} bytes: {path}")
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        server.bind(str(path))
    finally:
        os.umask(mask)
    server.listen(16)
    return server
