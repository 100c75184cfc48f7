"""ggml's block formats as float32, vectorised, with the very arithmetic that ggml defines.

Every product below is exact in float32 (an 11-bit scale times at most 8 bits), so one rounding is left where an
offset is added, and the result is the same bit for bit whoever computes it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

BLOCK = 32


def dequantize(data: Bytes, dtype: str) -> Floats:
    """`data` uint8[rows, row_bytes], contiguous in its last axis -> float32[rows, columns]."""
    return _DECODERS[dtype](data)


def narrow(values: Floats, dtype: str) -> npt.NDArray[np.generic]:
    """float32 -> the nearest values of `dtype`, ties to even; bfloat16 comes as the bits of it, in uint16."""
    if dtype == "float32":
        return values
    if dtype == "float16":
        with np.errstate(over="ignore"):  # too large becomes infinite, which the caller looks for
            return values.astype("<f2")
    if dtype != "bfloat16":
        raise ValueError(f"no such target: {dtype}")
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    quiet_nan = (bits >> 16) | 0x40  # rounding could carry a NaN into infinity
    return np.where(np.isnan(values), quiet_nan, rounded).astype("<u2")


def _float32(data: Bytes) -> Floats:
    return data.view("<f4").astype(np.float32, copy=False)


def _float16(data: Bytes) -> Floats:
    return data.view("<f2").astype(np.float32)


def _bfloat16(data: Bytes) -> Floats:
    return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _blocks(data: Bytes, nbytes: int) -> Bytes:
    """uint8[rows, blocks, nbytes]."""
    return data.reshape(data.shape[0], -1, nbytes)


def _half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of each block: float32[rows, blocks, 1]."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(quants: Bytes) -> Floats:
    """16 bytes a block -> 32 values in 0..15: the low halves are the first 16, the high halves the last."""
    return np.concatenate((quants & 0x0F, quants >> 4), axis=-1).astype(np.float32)


def _q8_0(data: Bytes) -> Floats:
    """d * q; block: float16 d, int8 q[32]."""
    blocks = _blocks(data, 34)
    out = blocks[..., 2:].view(np.int8).astype(np.float32)
    out *= _half(blocks, 0)
    return out.reshape(data.shape[0], -1)


def _q4_0(data: Bytes) -> Floats:
    """d * (q - 8); block: float16 d, uint4 q[32]."""
    blocks = _blocks(data, 18)
    out = _nibbles(blocks[..., 2:])
    out -= np.float32(8)
    out *= _half(blocks, 0)
    return out.reshape(data.shape[0], -1)


def _q4_1(data: Bytes) -> Floats:
    """d * q + m; block: float16 d, float16 m, uint4 q[32]."""
    blocks = _blocks(data, 20)
    out = _nibbles(blocks[..., 4:])
    out *= _half(blocks, 0)
    out += _half(blocks, 2)
    return out.reshape(data.shape[0], -1)


_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "float32": _float32,
    "float16": _float16,
    "bfloat16": _bfloat16,
    "q8_0": _q8_0,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
}
