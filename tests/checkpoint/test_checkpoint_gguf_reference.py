"""Dequantizing against ggml's own Python package, bit for bit: random blocks, and the numbers at the edges."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from deploykit.checkpoint.dequant import dequantize
from deploykit.checkpoint.ggml_types import BY_NAME, GGML_TYPES, READABLE

# where the float16 numbers of a block stand
HALVES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
# zero, the smallest and largest subnormal, the smallest and largest normal, one, and their negatives
EDGES = np.array([0x0000, 0x0001, 0x03FF, 0x0400, 0x7BFF, 0x3C00], "<u2")
EXTREME = np.concatenate((EDGES, EDGES | 0x8000))


def test_the_table_of_types_is_ggmls() -> None:
    for number, ours in GGML_TYPES.items():
        if (
            ours.name == "Q8_1"
        ):  # never in a file; the package counts its two numbers as float32, ggml as float16
            continue
        theirs = GGMLQuantizationType(number)
        assert (theirs.name, *gguf.GGML_QUANT_SIZES[theirs]) == (ours.name, ours.block, ours.nbytes)


@pytest.mark.parametrize("name", READABLE)
def test_equal_bits(name: str) -> None:
    kind = BY_NAME[name]
    rng = np.random.default_rng(11)
    rows, blocks = 96, 24
    data = rng.integers(0, 256, (rows, blocks, kind.nbytes), dtype=np.uint8)
    if name in HALVES:
        for at in HALVES[name]:
            scale = 10.0 ** rng.integers(-7, 5, (rows, blocks, 1))
            numbers = (rng.standard_normal((rows, blocks, 1)) * scale).clip(-65504, 65504).astype("<f2")
            data[..., at : at + 2] = numbers.view(np.uint8)
        firsts = [(a, b) for a in EXTREME for b in EXTREME]
        for i, pair in enumerate(firsts):  # 144 pairs of edges
            for at, value in zip(HALVES[name], pair, strict=False):
                data[i // blocks, i % blocks, at : at + 2] = np.array([value], "<u2").view(np.uint8)
    flat = data.reshape(rows, -1)
    theirs = gguf.dequantize(flat, GGMLQuantizationType[name]).astype(np.float32)
    ours = dequantize(flat, READABLE[name])
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    assert ours.shape == theirs.shape
    assert same.all()
    if name in HALVES:
        assert np.isfinite(ours).all()
