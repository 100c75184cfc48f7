"""`rope_parameters` of a config.json, from a GGUF's metadata and from the tensors of divisors that go with it."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.files import open_regular
from deploykit.checkpoint.gguf import GgufTensor
from deploykit.checkpoint.gguf_families import Family
from deploykit.checkpoint.gguf_metadata import Metadata

FREQS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
_YARN = {
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
    "yarn_attn_factor": "attention_factor",
    "attn_factor": "attention_factor",
}


def rope_tensors(family: Family) -> frozenset[str]:
    """Tensors that become part of the config instead of the weights."""
    names = {"llama3": (FREQS,), "longrope": (LONG, SHORT)}
    return frozenset(name for kind in family.scaling for name in names.get(kind, ()))


def rope_parameters(
    meta: Metadata, arch: str, family: Family, tensors: Mapping[str, GgufTensor], head_dim: int
) -> dict[str, Any]:
    """What config.json says under `rope_parameters`. Raises CheckpointError for what it can't say."""
    rope: dict[str, Any] = {"rope_theta": meta.number(f"{arch}.rope.freq_base", 10000.0)}
    dims = meta.integer(f"{arch}.rope.dimension_count", head_dim, high=1 << 16)
    if family.partial_rope:
        if dims > head_dim or dims % 2:
            raise meta.bad(f"{arch}.rope.dimension_count", f"{dims} of a head's {head_dim} can't rotate")
        rope["partial_rotary_factor"] = dims / head_dim
        if int(head_dim * rope["partial_rotary_factor"]) != dims:  # as every reader of the config computes it
            raise meta.unsupported(f"{arch}.rope.dimension_count")
    elif dims != head_dim:
        why = f"it differs from the head size of {head_dim}, which {family.architecture} doesn't know"
        raise meta.bad(f"{arch}.rope.dimension_count", why)
    return {**_scaling(meta, arch, family, tensors, rope["rope_theta"], dims), **rope}


def _scaling(
    meta: Metadata, arch: str, family: Family, tensors: Mapping[str, GgufTensor], theta: float, dims: int
) -> dict[str, Any]:
    key = f"{arch}.rope.scaling"
    kind = meta.text(f"{key}.type", "none")
    if f"{arch}.rope.scale_linear" in meta:  # what converters wrote before scaling.type
        factor = meta.number(f"{arch}.rope.scale_linear")
        kind = "linear" if factor != 1.0 else kind
    else:
        factor = meta.number(f"{key}.factor", 1.0)
    if "llama3" in family.scaling and FREQS in tensors:
        if kind != "none":
            raise meta.bad(f"{key}.type", f"{kind} together with {FREQS}")
        return _llama3(meta, tensors[FREQS], theta, dims)
    if "longrope" in family.scaling and LONG in tensors:
        return _longrope(meta, key, tensors, dims)
    if kind not in family.scaling or kind in ("llama3", "longrope"):
        raise CheckpointError(f"rope scaling {printable(repr(kind))} isn't supported", file=meta.path)
    if kind == "none":
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    original = meta.integer(f"{key}.original_context_length")
    own = {name: meta.number(f"{key}.{k}") for k, name in _YARN.items() if f"{key}.{k}" in meta}
    for strange in ("yarn_ext_factor", "yarn_log_multiplier"):
        if f"{key}.{strange}" in meta:
            raise meta.unsupported(f"{key}.{strange}")
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **own}


def _longrope(meta: Metadata, key: str, tensors: Mapping[str, GgufTensor], dims: int) -> dict[str, Any]:
    """Phi-3's two lists of divisors, which stand in the file as they stand in a config.json."""
    own: dict[str, Any] = {
        "rope_type": "longrope",
        "long_factor": _divisors(meta, tensors.get(LONG), LONG, dims),
        "short_factor": _divisors(meta, tensors.get(SHORT), SHORT, dims),
        "original_max_position_embeddings": meta.integer(f"{key}.original_context_length"),
    }
    if f"{key}.attn_factor" in meta:
        own["attention_factor"] = meta.number(f"{key}.attn_factor")
    return own


def _divisors(meta: Metadata, tensor: GgufTensor | None, name: str, dims: int) -> list[float]:
    n = dims // 2
    if tensor is None or tensor.shape != (n,) or tensor.type.name != "F32":
        raise CheckpointError("rope divisors of the wrong shape or type", file=meta.path, tensor=name)
    with open_regular(meta.path) as f:
        f.seek(tensor.offset)
        data = f.read(4 * n)
    if len(data) != 4 * n:
        raise CheckpointError("the file got shorter while it was read", file=meta.path, tensor=name)
    stored = struct.unpack(f"<{n}f", data)
    if not all(math.isfinite(v) and 0 < v < 1e30 for v in stored):
        raise CheckpointError("a rope divisor is not a positive number", file=meta.path, tensor=name)
    return [float(f"{v:.9g}") for v in stored]


def _llama3(meta: Metadata, tensor: GgufTensor, theta: float, dims: int) -> dict[str, Any]:
    """Llama 3's scaling, told from the divisors that converters write into `rope_freqs.weight`.

    The file holds the result, a config.json the parameters; every published model has low 1, high 4 and an original
    context of 8192, so the factor (the largest divisor) fixes them all. Divisors that this doesn't give are refused.
    """
    stored = _divisors(meta, tensor, FREQS, dims)
    factor, low, high, original = max(stored), 1.0, 4.0, 8192
    for i, divisor in enumerate(stored):
        wavelength = 2 * math.pi * theta ** (2 * i / dims)
        if wavelength < original / high:
            wanted = 1.0
        elif wavelength > original / low:
            wanted = factor
        else:
            smooth = (original / wavelength - low) / (high - low)
            wanted = 1 / ((1 - smooth) / factor + smooth)
        if not math.isclose(divisor, wanted, rel_tol=1e-4):
            why = f"divisor {i} is {divisor:.6g}, Llama 3's formula gives {wanted:.6g}"
            raise CheckpointError(
                "these rope divisors aren't supported", file=meta.path, tensor=FREQS, why=why
            )
    return {
        "rope_type": "llama3",
        "factor": float(factor),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
