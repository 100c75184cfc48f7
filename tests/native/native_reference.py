"""A description computed in numpy, float32 and straightforward: the oracle between the tables and the library.

It reads weights the way the runner does and dequantizes them by the formats' definitions, so that a wrong description
or a wrong name shows here without the library, and a wrong kernel shows as a difference to this.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deploykit.checkpoint.dequant import dequantize
from deploykit.checkpoint.facts import Facts
from deploykit.checkpoint.raw import RawReader
from deploykit.engine.native.describe import describe
from deploykit.engine.native.description import Activation, LayerSpec, ModelDescription, QkNorm
from deploykit.engine.native.names import Weight, WeightFormat, manifest
from deploykit.engine.native.pieces import WeightBytes, WeightReader

Floats = NDArray[np.float32]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word is column AWQ_ORDER[i] of its eight


def to_float(weight: Weight, stored: WeightBytes) -> Floats:
    """float32 [rows, cols]."""
    if weight.format == WeightFormat.AWQ:
        return _packed(weight, stored, awq=True)
    if weight.format == WeightFormat.GPTQ:
        return _packed(weight, stored, awq=False)
    name = {WeightFormat.F32: "float32", WeightFormat.F16: "float16", WeightFormat.BF16: "bfloat16"}.get(
        weight.format, weight.format.value
    )
    return dequantize(stored.data.reshape(weight.rows, -1), name).reshape(weight.rows, weight.cols).copy()


def _nibbles(words: NDArray[np.int32], axis: int) -> Floats:
    """Eight values of four bits a word, lowest first, spread along `axis`."""
    parts = np.stack([(words.view(np.uint32) >> (4 * i)) & 15 for i in range(8)], axis=axis + 1)
    shape = list(words.shape)
    shape[axis] *= 8
    return parts.reshape(shape).astype(np.float32)


def _packed(weight: Weight, stored: WeightBytes, awq: bool) -> Floats:
    rows, cols, groups = weight.rows, weight.cols, weight.cols // weight.group
    assert stored.scales is not None
    assert stored.zeros is not None
    scales = stored.scales.view("<f2").astype(np.float32).reshape(groups, rows)
    words = stored.data.view("<i4")
    zeros = _nibbles(stored.zeros.view("<i4").reshape(groups, rows // 8), axis=1)
    if awq:
        q = _nibbles(words.reshape(cols, rows // 8), axis=1)
        index = np.arange(rows).reshape(-1, 8)[:, np.argsort(AWQ_ORDER)].reshape(-1)
        q, zeros = q[:, index], zeros[:, index]
    else:
        q = _nibbles(words.reshape(cols // 8, rows), axis=0)
        zeros = zeros + weight.zero_offset
    spread = np.repeat(np.arange(groups), weight.group)
    result: Floats = ((q - zeros[spread]) * scales[spread]).T
    return result


class Reference:
    """The whole model in memory, float32."""

    def __init__(self, facts: Facts, session_len: int) -> None:
        self.model: ModelDescription = describe(facts)
        self.tables = [rope.table(session_len) for rope in self.model.ropes]
        self.weights: dict[str, Floats] = {}
        with RawReader(facts) as raw:
            reader = WeightReader(raw)
            found = manifest(facts, self.model)
            reader.check(found)
            for weight in found.weights:
                self.weights[weight.name] = to_float(weight, reader.read(weight))
            raw.check_unchanged()

    def logits(self, tokens: list[int]) -> Floats:
        """float32 [T, vocab]."""
        m = self.model
        x = self.weights["embed.weight"][tokens] * np.float32(m.embedding_multiplier)
        for i, layer in enumerate(m.layers):
            x = self._layer(f"layers.{i}.", layer, x)
        head = self.weights["embed.weight" if m.tied else "head.weight"]
        out = self._norm("final_norm", x) @ head.T * np.float32(m.logits_multiplier)
        if m.logits_softcap:
            out = np.tanh(out / m.logits_softcap) * m.logits_softcap
        return out.astype(np.float32)

    def _norm(self, name: str, x: Floats, full: bool = True) -> Floats:
        if f"{name}.weight" not in self.weights:
            return x
        weight = self.weights[f"{name}.weight"][0] + np.float32(self.model.norm.weight_offset)
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.model.norm.eps))
        return x / scale * weight

    def _linear(self, name: str, x: Floats) -> Floats:
        out = x @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return out if bias is None else out + bias[0]

    def _layer(self, at: str, layer: LayerSpec, x: Floats) -> Floats:
        m = np.float32(layer.residual_multiplier)
        attended = self._attention(at, layer, self._norm(f"{at}attn_norm", x))
        x = x + m * self._norm(f"{at}attn_post_norm", attended)
        mlp = self._mlp(at, layer, self._norm(f"{at}mlp_norm", x))
        return x + m * self._norm(f"{at}mlp_post_norm", mlp)

    def _attention(self, at: str, layer: LayerSpec, x: Floats) -> Floats:
        a, count = layer.attention, len(x)
        q, k, v = (self._linear(f"{at}{part}", x) for part in "qkv")
        if a.qk_norm == QkNorm.FULL:
            q, k = self._norm(f"{at}q_norm", q), self._norm(f"{at}k_norm", k)
        q, k, v = (y.reshape(count, -1, a.head_dim) for y in (q, k, v))
        if a.qk_norm == QkNorm.HEAD:
            q, k = self._norm(f"{at}q_norm", q), self._norm(f"{at}k_norm", k)
        if a.rope >= 0:
            q, k = self._rotate(a.rope, q), self._rotate(a.rope, k)
        if a.logn_trained_len:
            growth = np.log(np.arange(1, count + 1)) / np.log(a.logn_trained_len)
            q = q * np.maximum(growth, 1).astype(np.float32)[:, None, None]
        k, v = (np.repeat(y, a.heads // a.kv_heads, axis=1) for y in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) * np.float32(a.scale)
        if a.softcap:
            scores = np.tanh(scores / a.softcap) * a.softcap
        distance = np.arange(count)[:, None] - np.arange(count)[None, :]
        hidden = (distance < 0) | ((distance >= a.window) if a.window else False)
        scores = np.where(hidden, -np.inf, scores)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return self._linear(f"{at}o", np.einsum("hqk,khd->qhd", scores, v).reshape(count, -1))

    def _rotate(self, rope: int, x: Floats) -> Floats:
        inv_freq, factor = self.tables[rope]
        angles = np.arange(len(x), dtype=np.float32)[:, None] * inv_freq
        cos, sin = (f(angles)[:, None] * np.float32(factor) for f in (np.cos, np.sin))
        half = len(inv_freq)
        out = x.copy()
        if self.model.ropes[rope].interleaved:
            first, second = x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]
            out[..., 0 : 2 * half : 2] = first * cos - second * sin
            out[..., 1 : 2 * half : 2] = second * cos + first * sin
        else:
            first, second = x[..., :half], x[..., half : 2 * half]
            out[..., :half] = first * cos - second * sin
            out[..., half : 2 * half] = second * cos + first * sin
        return out

    def _mlp(self, at: str, layer: LayerSpec, x: Floats) -> Floats:
        moe = layer.mlp.moe
        if not moe.experts:
            return self._expert(at, layer, x)
        logits = self._linear(f"{at}router", x)
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        out = np.zeros_like(x)
        for t in range(len(x)):
            chosen = np.argsort(-probs[t], kind="stable")[: moe.top_k]
            shares = probs[t, chosen]
            shares = shares / shares.sum() if moe.normalize else shares
            for e, share in zip(chosen, shares, strict=True):
                out[t] += share * self._expert(f"{at}experts.{e}.", layer, x[t : t + 1])[0]
        return out

    def _expert(self, at: str, layer: LayerSpec, x: Floats) -> Floats:
        up = self._linear(f"{at}up", x)
        gate = self._linear(f"{at}gate", x) if layer.mlp.gated else up
        act = _activate(layer.mlp.activation, gate)
        return self._linear(f"{at}down", act * up if layer.mlp.gated else act)


def _activate(kind: Activation, x: Floats) -> Floats:
    if kind == Activation.SILU:
        return x / (1 + np.exp(-x))
    if kind == Activation.GELU_TANH:
        return 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)))
    if kind == Activation.RELU:
        return np.maximum(x, 0)
    from math import erf

    return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)).astype(np.float32))
