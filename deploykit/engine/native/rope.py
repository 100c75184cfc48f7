"""Inverse frequencies of every rope scaling, in float32 with the arithmetic of transformers' rope utilities.

A table is made once for a session length: scalings that look at the longest sequence (dynamic, longrope) take the
planned session, as the pytorch engine does, so that a token's angle never depends on what else is computed.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from deploykit.engine.native.description import Rope

Floats = npt.NDArray[np.float32]


def table(rope: Rope, session_len: int) -> tuple[Floats, float]:
    """(inverse frequencies float32[dims / 2], factor of cos and sin)."""
    match rope.kind:
        case "default":
            return _inverse(_powers(rope.theta, rope.dims)), 1.0
        case "linear":
            return _inverse(_powers(rope.theta, rope.dims)) / np.float32(rope.factor or 1.0), 1.0
        case "dynamic":
            return _dynamic(rope, session_len), 1.0
        case "llama3":
            return _llama3(rope), 1.0
        case "yarn":
            return _yarn(rope), _yarn_attention_factor(rope)
        case "longrope":
            return _longrope(rope, session_len)
    raise ValueError(f"no such rope: {rope.kind}")


def _powers(base: float | np.float32, dims: int) -> Floats:
    """base ** (2i / dims)."""
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    powers: Floats = np.power(np.float32(base), exponents)
    return powers


def _inverse(powers: Floats) -> Floats:
    return np.float32(1.0) / powers


def _dynamic(rope: Rope, session_len: int) -> Floats:
    """NTK: the base grows with the session beyond what the model was trained for."""
    factor = rope.factor or 1.0
    exponent = rope.dims / (rope.dims - 2)
    if session_len <= rope.max_positions:
        return _inverse(_powers(rope.theta * ((factor * 1.0) - (factor - 1)) ** exponent, rope.dims))
    ratio = np.float32(factor * session_len) / np.float32(rope.max_positions)
    growth = np.power(ratio - np.float32(factor - 1), np.float32(exponent))
    return _inverse(_powers(np.float32(rope.theta) * growth, rope.dims))


def _llama3(rope: Rope) -> Floats:
    inv_freq = _inverse(_powers(rope.theta, rope.dims))
    factor, low = np.float32(rope.factor), np.float32(rope.low_freq_factor)
    original = rope.original_positions
    wavelength = np.float32(2 * math.pi) / inv_freq
    scaled = np.where(wavelength > np.float32(original / rope.low_freq_factor), inv_freq / factor, inv_freq)
    smooth = (np.float32(original) / wavelength - low) / np.float32(
        rope.high_freq_factor - rope.low_freq_factor
    )
    smoothed = (np.float32(1) - smooth) * scaled / factor + smooth * scaled
    short = wavelength < np.float32(original / rope.high_freq_factor)
    long = wavelength > np.float32(original / rope.low_freq_factor)
    return np.where(~short & ~long, smoothed, scaled).astype(np.float32)


def _yarn(rope: Rope) -> Floats:
    """https://arxiv.org/abs/2309.00071: short wavelengths stay, long ones are interpolated, a ramp between."""

    def dimension(rotations: float) -> float:
        turns = rope.original_positions / (rotations * 2 * math.pi)
        return (rope.dims * math.log(turns)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dims - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(rope.dims // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    keep = np.float32(1) - np.clip(ramp, np.float32(0), np.float32(1))
    powers = _powers(rope.theta, rope.dims)
    interpolated = np.float32(1) / (np.float32(rope.factor) * powers)
    blended: Floats = interpolated * (np.float32(1) - keep) + _inverse(powers) * keep
    return blended


def _yarn_attention_factor(rope: Rope) -> float:
    def mscale(weight: float = 1.0) -> float:
        factor = rope.factor or 1.0
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return mscale(rope.mscale) / mscale(rope.mscale_all_dim)
    return mscale()


def _longrope(rope: Rope, session_len: int) -> tuple[Floats, float]:
    """https://arxiv.org/abs/2402.13753: a factor per frequency, one set for short sessions and one for long ones."""
    factors = rope.long_factor if session_len > rope.original_positions else rope.short_factor
    inv_freq = np.float32(1) / (np.asarray(factors, dtype=np.float32) * _powers(rope.theta, rope.dims))
    attention_factor = rope.attention_factor
    if attention_factor is None:
        factor = rope.factor if rope.factor is not None else rope.max_positions / rope.original_positions
        attention_factor = (
            1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(rope.original_positions))
        )
    return inv_freq, attention_factor
