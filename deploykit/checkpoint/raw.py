"""Stored bytes of tensors, as they are in the file: torch-free, and never more than one copy of what is asked for.

Bytes are read with `preadv` into the caller's memory and not through a mapping: a file that is cut short while it is
read is then a short read and an error that names the tensor, where a mapping would end the process (SIGBUS).
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.checkpoint.files import member, open_regular

Bytes = npt.NDArray[np.uint8]

_CHUNK = 1 << 30  # one read never asks for more: Linux returns at most 2 GiB
_FIX = "the file was changed or cut short while it was in use: fetch it again"


class RawReader:
    """The files of a checkpoint, open for reading, for use as a context manager.

    Files are opened when they are first read; after `open_all` several threads may read at once.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._files: dict[str, tuple[int, os.stat_result]] = {}

    def __enter__(self) -> RawReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for fd, _ in self._files.values():
            os.close(fd)
        self._files.clear()

    def open_all(self) -> None:
        """Open every file now."""
        for tensor in {t.file: t for t in self._facts.tensors}.values():
            self._open(tensor)

    def path(self, tensor: TensorInfo) -> Path:
        """The file that holds the tensor."""
        path = Path(self._facts.path)
        if self._facts.format != "gguf":
            return member(path, tensor.file)
        return path if tensor.file == path.name else member(path.parent, tensor.file)

    def read(self, tensor: TensorInfo, out: Bytes, start: int = 0) -> None:
        """Fill `out` (contiguous) with the tensor's bytes from byte `start` on. Raises CheckpointError."""
        if start < 0 or start + out.nbytes > tensor.nbytes:
            raise ValueError(f"{tensor.name} has no bytes {start} to {start + out.nbytes}")
        fd = self._open(tensor)
        view = out.data.cast("B")
        done = 0
        while done < len(view):
            piece = view[done : done + _CHUNK]
            try:
                count = os.preadv(fd, [piece], tensor.offset + start + done)
            except OSError as e:
                path = self.path(tensor)
                raise CheckpointError(
                    "a tensor can't be read", file=path, tensor=tensor.name, why=str(e)
                ) from e
            if count == 0:
                end = tensor.offset + tensor.nbytes
                why = f"its data ends at byte {end}, the file has {os.fstat(fd).st_size}"
                raise CheckpointError(
                    "the file is cut short", file=self.path(tensor), tensor=tensor.name, why=why, fix=_FIX
                )
            done += count

    def check_unchanged(self) -> None:
        """Raise CheckpointError where a file was written to since it was opened."""
        for name, (fd, before) in self._files.items():
            now = os.fstat(fd)
            if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                file = self._facts.path_of(name)
                raise CheckpointError("the file has changed while it was read", file=file, fix=_FIX)

    def _open(self, tensor: TensorInfo) -> int:
        if tensor.file not in self._files:
            with open_regular(self.path(tensor)) as f:
                fd = os.dup(f.fileno())
            self._files[tensor.file] = (fd, os.fstat(fd))
        return self._files[tensor.file][0]
