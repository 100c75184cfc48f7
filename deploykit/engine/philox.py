"""Philox4x32-10: random numbers that are a pure function of (key, counter).

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Ten rounds of two
32 x 32 -> 64 bit multiplications; the known answers stand in `docs/sampling.md` and are tested.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Words = tuple[int, int, int, int]

_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # multipliers
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # what the key grows by each round
_LOW = 0xFFFFFFFF
_ROUNDS = 10

DRAW = 0  # last counter word: the uniform that draws a token
SIBLING = 1  # last counter word: the seed of a sibling sequence


def philox4x32(key: tuple[int, int], counter: Words) -> Words:
    """Four 32-bit words from a key of two and a counter of four."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(_ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def uniform(seed: int, position: int) -> float:
    """The number in (0, 1) that draws output token `position` (from 0) under `seed` (unsigned 64 bit)."""
    x0, x1, _, _ = philox4x32((seed & _LOW, seed >> 32), (position, 0, 0, DRAW))
    # 52 bits and a half: exact in float64, and neither 0 nor 1 can come out
    return ((x0 << 20 | x1 >> 12) + 0.5) * 2.0**-52


def uniforms(
    seeds: Sequence[int] | npt.NDArray[np.uint64], positions: Sequence[int] | npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """`uniform` for arrays: `seeds` uint64[n], `positions` [n] -> float64[n], bit for bit the same."""
    seed = np.asarray(seeds, dtype=np.uint64)
    c0 = np.asarray(positions, dtype=np.int64).astype(np.uint64)
    low, shift = np.uint64(_LOW), np.uint64(32)
    k0, k1 = seed & low, seed >> shift
    c1, c2, c3 = np.zeros_like(c0), np.zeros_like(c0), np.full_like(c0, DRAW)
    for _ in range(_ROUNDS):
        p0, p1 = np.uint64(_M0) * c0, np.uint64(_M1) * c2
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & low, (p0 >> shift) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + np.uint64(_W0)) & low, (k1 + np.uint64(_W1)) & low
    bits = (c0 << np.uint64(20)) | (c1 >> np.uint64(12))
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def sibling_seed(seed: int, index: int) -> int:
    """The seed of sequence `index` of a request with n > 1; sequence 0 has the request's own."""
    if index == 0:
        return seed
    x0, x1, _, _ = philox4x32((seed & _LOW, seed >> 32), (index, 0, 0, SIBLING))
    return x1 << 32 | x0
