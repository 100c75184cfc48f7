"""Seeded damage to a file's bytes, most of it in the header: flips, cuts, lies in numbers, moved and doubled parts."""

from __future__ import annotations

import random
import struct

_LIES = (0, 1, 7, 0xFF, 1 << 16, 1 << 31, 2**32 - 1, 2**32, 1 << 40, 2**63 - 1, 1 << 63, 2**64 - 1)


def mutate(data: bytes, seed: int, header_bytes: int) -> bytes:
    rng = random.Random(seed)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(min(header_bytes, max(1, len(out))))
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[rng.randrange(len(out)) :]
        elif kind == 2:
            lie = struct.pack("<Q", rng.choice(_LIES))[: rng.choice((1, 2, 4, 8))]
            out[at : at + len(lie)] = lie
        elif kind == 3:
            del out[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif kind == 5:
            out[at : at + 30] = out[at : at + 30] * 2
        else:
            out[at : at + 8] = rng.randbytes(8)
        if not out:
            break
    return bytes(out)
