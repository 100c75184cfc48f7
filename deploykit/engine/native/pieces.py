"""Reads the bytes of each weight in the manifest, cut to its rows, and proves what headers can't say."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import TensorInfo
from deploykit.checkpoint.raw import Bytes, RawReader
from deploykit.engine.native.names import Manifest, Piece, Weight, WeightFormat

# GGUF block formats with float16 scales: bytes a block, and where in it the scales lie (first byte, how many halves).
_BLOCK_SCALES = {
    WeightFormat.Q4_0: (18, 0, 1),
    WeightFormat.Q4_1: (20, 0, 2),
    WeightFormat.Q5_0: (22, 0, 1),
    WeightFormat.Q5_1: (24, 0, 2),
    WeightFormat.Q8_0: (34, 0, 1),
    WeightFormat.Q4_K: (144, 0, 2),
    WeightFormat.Q5_K: (176, 0, 2),
    WeightFormat.Q6_K: (210, 208, 1),
}


class WeightBytes(msgspec.Struct, frozen=True):
    """Contiguous uint8 arrays; valid until the reader is asked for the next weight."""

    data: Bytes
    scales: Bytes | None = None
    zeros: Bytes | None = None


class WeightReader:
    """Reads one weight at a time into memory that it uses again and again."""

    def __init__(self, reader: RawReader) -> None:
        self._reader = reader
        self._buffers: dict[str, Bytes] = {}

    def read(self, weight: Weight) -> WeightBytes:
        """The weight's stored bytes. Raises CheckpointError for what is unreadable or not finite."""
        data = self._piece("data", weight.data)
        if weight.scales is None or weight.zeros is None:
            self._check_blocks(weight, data)
            return WeightBytes(data)
        if weight.order is not None:
            self._check_order(weight.order, weight.group)
        scales = self._scales(weight.scales)
        return WeightBytes(data, scales, self._piece("zeros", weight.zeros))

    def check(self, manifest: Manifest) -> None:
        """What stands beside the weights: biases that the model has no place for."""
        for tensor in manifest.zero_biases:
            if self._piece("data", Piece(tensor)).any():
                why = "the model has no such bias, so that it must be zero, and it isn't"
                raise self._bad(tensor, "a tensor belongs to no part of the model", why)

    # ---- pieces of tensors

    def _piece(self, use: str, piece: Piece) -> Bytes:
        tensor = piece.tensor
        if not piece.ranges:
            out = self._buffer(use, tensor.nbytes)
            self._reader.read(tensor, out)
            return out
        columns = tensor.shape[-1] if len(tensor.shape) > 1 else 1
        rows = tensor.num_elements // columns
        row_bytes = tensor.nbytes // rows
        if piece.axis == 0:
            out = self._buffer(use, sum(count for _, count in piece.ranges) * row_bytes)
            done = 0
            for first, count in piece.ranges:
                self._reader.read(tensor, out[done : done + count * row_bytes], first * row_bytes)
                done += count * row_bytes
            return out
        whole = self._buffer("whole", tensor.nbytes)
        self._reader.read(tensor, whole)
        size = row_bytes // columns
        matrix = whole.reshape(rows, columns, size)
        cut = [matrix[:, first : first + count] for first, count in piece.ranges]
        return np.ascontiguousarray(cut[0] if len(cut) == 1 else np.concatenate(cut, axis=1)).reshape(-1)

    def _buffer(self, use: str, nbytes: int) -> Bytes:
        buffer = self._buffers.get(use)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._buffers[use] = np.empty(nbytes, dtype=np.uint8)
        return buffer[:nbytes]

    # ---- what is proven

    def _bad(self, tensor: TensorInfo, what: str, why: str) -> CheckpointError:
        return CheckpointError(what, file=self._reader.path(tensor), tensor=tensor.name, why=why)

    def _check_blocks(self, weight: Weight, data: Bytes) -> None:
        """Scales of GGUF blocks are finite: one that isn't would poison every token."""
        layout = _BLOCK_SCALES.get(weight.format)
        if layout is None:
            return
        block, first, count = layout
        halves = data.view("<u2").reshape(-1, block // 2)[:, first // 2 : first // 2 + count]
        if np.bitwise_and(halves, 0x7C00).max() == 0x7C00:
            block_index = int((halves & 0x7C00 == 0x7C00).any(axis=1).argmax())
            raise self._bad(
                weight.data.tensor, "a scale is not finite", f"in block {block_index} of {weight.name}"
            )

    def _check_order(self, tensor: TensorInfo, group: int) -> None:
        order = self._piece("whole", Piece(tensor)).view("<i4")
        if not np.array_equal(order, np.arange(len(order), dtype=np.int32) // group):
            why = f"columns are not in consecutive groups of {group} (GPTQ in activation order)"
            raise self._bad(tensor, "this order of columns is not implemented", why)

    def _scales(self, piece: Piece) -> Bytes:
        """Scales as float16, which is what the library takes; other floats only where that changes none of them."""
        tensor = piece.tensor
        raw = self._piece("scales", piece)
        values: npt.NDArray[np.float32]
        if tensor.dtype == "float16":
            halves = raw.view("<f2")
        else:
            if tensor.dtype == "bfloat16":
                values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = raw.view("<f4")
            with np.errstate(over="ignore"):
                halves = values.astype("<f2")
            if not np.array_equal(halves.astype(np.float32), values, equal_nan=True):
                why = f"stored as {tensor.dtype}, with values that float16 can't hold"
                raise self._bad(tensor, "these scales are not implemented", why)
        if not np.isfinite(halves).all():
            where = int((~np.isfinite(halves)).argmax())
            raise self._bad(tensor, "a scale is not finite", f"value {where} of {halves.size}")
        return halves.view(np.uint8)
