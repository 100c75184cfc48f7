"""Writing safetensors files: the header first, then bytes at their places."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from deploykit.errors import EXIT_NO_FIT, DeploykitError
from deploykit.hub.disk import free_bytes, size_text

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def header_of(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """name -> (safetensors' dtype, shape, bytes), in the order of the data: length and JSON, padded to 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, nbytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def allocate(fd: int, nbytes: int) -> None:
    """Take the space of a whole file, so that a full disk shows before the work. Raises OSError for that alone."""
    try:
        os.posix_fallocate(fd, 0, nbytes)
    except AttributeError:  # a system without it: the writes will tell
        return
    except OSError as error:
        if is_full(error):
            raise


def is_full(error: OSError) -> bool:
    """Whether it says that there is no room."""
    return error.errno in _FULL


def put(fd: int, data: bytes | memoryview, offset: int) -> int:
    """Write all of `data` at `offset`; how many bytes that were. Raises OSError."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
    return done


def disk_full(target: Path, nbytes: int, error: OSError) -> DeploykitError:
    """The error of a file that couldn't be written whole."""
    have = free_bytes(target.parent)
    return DeploykitError(
        "there is no room to write the weights",
        where=str(target),
        why=f"{size_text(nbytes)} are needed, {size_text(have)} are free there ({error.strerror})",
        fix="free some space and run it again; nothing of this attempt is left",
        exit_code=EXIT_NO_FIT,
    )


def cores() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        return os.cpu_count() or 1
