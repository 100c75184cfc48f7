"""Dequantizing against a slow scalar reference written from ggml's definition of the blocks."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from deploykit.checkpoint.dequant import dequantize, narrow

f32 = np.float32


def scalar(data: bytes, dtype: str) -> list[np.float32]:
    """One block after the other, one element after the other, in float32 arithmetic."""
    out: list[np.float32] = []
    if dtype == "q8_0":
        for at in range(0, len(data), 34):
            (d,) = struct.unpack_from("<e", data, at)
            out += [f32(d) * f32(q) for q in struct.unpack_from("<32b", data, at + 2)]
    elif dtype == "q4_0":
        for at in range(0, len(data), 18):
            (d,) = struct.unpack_from("<e", data, at)
            quants = data[at + 2 : at + 18]
            out += [f32((q & 15) - 8) * f32(d) for q in quants]
            out += [f32((q >> 4) - 8) * f32(d) for q in quants]
    elif dtype == "q4_1":
        for at in range(0, len(data), 20):
            d, m = struct.unpack_from("<ee", data, at)
            quants = data[at + 4 : at + 20]
            out += [f32(q & 15) * f32(d) + f32(m) for q in quants]
            out += [f32(q >> 4) * f32(d) + f32(m) for q in quants]
    return out


@pytest.mark.parametrize(("dtype", "nbytes", "halves"), [("q8_0", 34, 1), ("q4_0", 18, 1), ("q4_1", 20, 2)])
def test_blocks_bit_for_bit(dtype: str, nbytes: int, halves: int) -> None:
    rng = np.random.default_rng(3)
    rows, blocks = 5, 7
    data = rng.integers(0, 256, (rows, blocks, nbytes), dtype=np.uint8)
    scales = (
        rng.standard_normal((rows, blocks, halves)) * 10.0 ** rng.integers(-7, 4, (rows, blocks, 1))
    ).astype("<f2")
    scales[0, 0] = 0
    scales[0, 1] = np.float16(6e-8)  # the smallest subnormal
    scales[0, 2] = np.float16(-65504)
    data[..., : 2 * halves] = scales.view(np.uint8)
    flat = data.reshape(rows, -1)
    got = dequantize(flat, dtype)
    assert got.shape == (rows, blocks * 32)
    assert got.dtype == np.float32
    wanted = np.array([scalar(row.tobytes(), dtype) for row in flat], dtype=np.float32)
    assert np.array_equal(got.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "mxfp4"])
def test_blocks_equal_ggmls_own(dtype: str) -> None:
    """golden_blocks.json comes from ggml itself (make_golden_blocks.py)."""
    golden = json.loads((Path(__file__).parent / "golden_blocks.json").read_text())[dtype]
    blocks = np.frombuffer(bytes.fromhex(golden["blocks"]), np.uint8).reshape(4, -1)
    assert dequantize(blocks, dtype).tobytes().hex() == golden["float32"]


def test_every_quant_value_of_a_byte() -> None:
    """Scale 1, offset 0: the numbers themselves."""
    one = struct.pack("<e", 1.0)
    q8 = np.frombuffer(one + bytes(range(112, 144)), np.uint8)[None]
    assert dequantize(q8, "q8_0")[0].tolist() == [*range(112, 128), *range(-128, -112)]
    nibbles = bytes((15 - i) << 4 | i for i in range(16))
    q4 = dequantize(np.frombuffer(one + nibbles, np.uint8)[None], "q4_0")[0]
    assert q4.tolist() == [*range(-8, 8), *range(7, -9, -1)]
    q41 = dequantize(np.frombuffer(one + struct.pack("<e", 0.5) + nibbles, np.uint8)[None], "q4_1")[0]
    assert q41.tolist() == [i + 0.5 for i in range(16)] + [15.5 - i for i in range(16)]


def test_plain_types_are_exact() -> None:
    bits = np.arange(65536, dtype="<u2")
    halves = bits[None].view(np.uint8)
    assert np.array_equal(
        dequantize(halves, "float16")[0].view(np.uint32), bits.view("<f2").astype(np.float32).view(np.uint32)
    )
    wanted = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16).float().numpy()
    assert np.array_equal(dequantize(halves, "bfloat16")[0].view(np.uint32), wanted.view(np.uint32))
    floats = np.random.default_rng(0).standard_normal((2, 9)).astype("<f4")
    assert np.array_equal(dequantize(floats.view(np.uint8), "float32"), floats)


def test_narrow_rounds_as_torch_does() -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    edges = np.array(
        [0.0, -0.0, np.inf, -np.inf, 3.4e38, 1e-45, 1.00390625, 1.01171875, 65504, 65520], np.float32
    )
    values = np.concatenate([values[~np.isnan(values)], edges])
    for dtype in ("bfloat16", "float16"):
        wanted = torch.from_numpy(values).to(getattr(torch, dtype)).view(torch.int16).numpy()
        assert np.array_equal(narrow(values, dtype).view(np.int16), wanted), dtype
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFFC00000], np.uint32).view(np.float32)
    back = torch.from_numpy(narrow(nans, "bfloat16").view(np.int16).copy()).view(torch.bfloat16)
    assert bool(back.isnan().all())
    assert np.shares_memory(narrow(values, "float32"), values)
