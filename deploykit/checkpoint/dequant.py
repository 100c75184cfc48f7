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
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    cast = rounded.astype("<u2")
    nan = np.isnan(values)
    if nan.any():  # rounding could carry a NaN into infinity
        cast[nan] = (bits[nan] >> 16) | 0x40
    return cast


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


def _fifth_bits(blocks: Bytes, at: int) -> Floats:
    """The uint32 at byte `at` of each block, bit i as 16 times it: float32[rows, blocks, 32]."""
    return np.unpackbits(blocks[..., at : at + 4], axis=-1, bitorder="little").astype(np.float32) * 16


def _q5_0(data: Bytes) -> Floats:
    """d * (q - 16); block: float16 d, the fifth bits, uint4 q[32]."""
    blocks = _blocks(data, 22)
    out = _nibbles(blocks[..., 6:]) + _fifth_bits(blocks, 2)
    out -= np.float32(16)
    out *= _half(blocks, 0)
    return out.reshape(data.shape[0], -1)


def _q5_1(data: Bytes) -> Floats:
    """d * q + m; block: float16 d, float16 m, the fifth bits, uint4 q[32]."""
    blocks = _blocks(data, 24)
    out = _nibbles(blocks[..., 8:]) + _fifth_bits(blocks, 4)
    out *= _half(blocks, 0)
    out += _half(blocks, 2)
    return out.reshape(data.shape[0], -1)


def _six_bit_pairs(packed: Bytes) -> tuple[Floats, Floats]:
    """12 bytes a block -> 8 scales and 8 minimums of 6 bits, each float32[rows, blocks, 8, 1]."""
    low, mid, high = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate((low & 63, (high & 15) | (low >> 6 << 4)), axis=-1)
    minimums = np.concatenate((mid & 63, (high >> 4) | (mid >> 6 << 4)), axis=-1)
    return scales.astype(np.float32)[..., None], minimums.astype(np.float32)[..., None]


def _k_quants(blocks: Bytes, quants: Floats) -> Floats:
    """d * scale * q - dmin * minimum over 8 groups of 32; `quants` float32[rows, blocks, 8, 32]."""
    scales, minimums = _six_bit_pairs(blocks[..., 4:16])
    out = _half(blocks, 0)[..., None] * scales * quants
    out -= _half(blocks, 2)[..., None] * minimums
    return out.reshape(blocks.shape[0], -1)


def _q4_k(data: Bytes) -> Floats:
    """Block of 256: float16 d, dmin, 8 scales and minimums of 6 bits, uint4 q[256] (two groups share 32 bytes)."""
    blocks = _blocks(data, 144)
    pairs = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 1, 32)
    quants = np.concatenate((pairs & 15, pairs >> 4), axis=-2).astype(np.float32)
    return _k_quants(blocks, quants.reshape(*blocks.shape[:2], 8, 32))


def _q5_k(data: Bytes) -> Floats:
    """As q4_k, with 32 bytes before the quants whose bit g is the fifth bit of group g."""
    blocks = _blocks(data, 176)
    pairs = blocks[..., 48:].reshape(*blocks.shape[:2], 4, 1, 32)
    quants = np.concatenate((pairs & 15, pairs >> 4), axis=-2).reshape(*blocks.shape[:2], 8, 32)
    fifth = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return _k_quants(blocks, (quants + 16 * fifth).astype(np.float32))


def _q6_k(data: Bytes) -> Floats:
    """d * scale * (q - 32); block of 256: low nibbles [128], upper two bits [64], int8 scale[16], float16 d."""
    blocks = _blocks(data, 210)
    shape = blocks.shape[:2]
    low = blocks[..., :128].reshape(*shape, 2, 1, 64)  # for each half: 64 bytes, first their low nibbles
    nibbles = np.concatenate((low & 15, low >> 4), axis=-2).reshape(*shape, 2, 4, 32)
    upper = blocks[..., 128:192].reshape(*shape, 2, 1, 32) >> (2 * np.arange(4, dtype=np.uint8))[:, None] & 3
    quants = (nibbles | upper << 4).astype(np.float32) - np.float32(32)
    scales = blocks[..., 192:208].view(np.int8).astype(np.float32)[..., None]
    out: Floats = _half(blocks, 208)[..., None] * scales * quants.reshape(*shape, 16, 16)
    return out.reshape(data.shape[0], -1)


# The values of e2m1, doubled; the scale is halved instead.
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.float32)
# 2 ** (e - 128) of every byte e (e8m0); the two smallest are subnormal.
_E8M0_HALF = np.concatenate((np.array([1 << 21, 1 << 22]), np.arange(1, 255) << 23)).astype(np.uint32)


def _mxfp4(data: Bytes) -> Floats:
    """2 ** (e - 127) * q; block: e8m0 e, e2m1 q[32]."""
    blocks = _blocks(data, 17)
    quants = blocks[..., 1:]
    out = _E2M1[np.concatenate((quants & 0x0F, quants >> 4), axis=-1)]
    with np.errstate(over="ignore"):  # the largest scales reach infinity, in ggml too
        out *= _E8M0_HALF.view(np.float32)[blocks[..., :1]]
    return out.reshape(data.shape[0], -1)


_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "float32": _float32,
    "float16": _float16,
    "bfloat16": _bfloat16,
    "q8_0": _q8_0,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
    "mxfp4": _mxfp4,
}
