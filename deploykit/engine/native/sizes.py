"""Bytes that the library takes, from headers alone: packed weights, KV blocks, scratch.

The formulas are the library's own (native/cpu/matmul/layout.cpp, native/cpu/attention/layout.cpp,
native/cpu/model/workspace.cpp); tests hold them against what a loaded engine says.
"""

from __future__ import annotations

from collections.abc import Iterable

from deploykit.engine.native.description import ModelDescription
from deploykit.engine.native.names import Weight, WeightFormat

# Plan.kv_dtype -> the library's KV type
KV_TYPES = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int8": "int8",
    "k8v4": "k8v4",
    "int4": "int4",
}
TILE_ROWS = 16
MIN_HEAD_DIM, MAX_HEAD_DIM = 32, 256
_THREAD_BYTES = 256 << 10  # a thread's tiles of products and its scores of attention

# Quants: bits a value, bytes of a scale record of 16 rows, columns that share it (0 = the weight's own group).
_RECORDS = {
    WeightFormat.Q4_0: (4, 32, 32),
    WeightFormat.Q4_1: (4, 64, 32),
    WeightFormat.Q5_0: (8, 32, 32),
    WeightFormat.Q5_1: (8, 64, 32),
    WeightFormat.Q8_0: (8, 32, 32),
    WeightFormat.Q4_K: (4, 320, 256),
    WeightFormat.Q5_K: (8, 320, 256),
    WeightFormat.Q6_K: (8, 288, 256),
    WeightFormat.AWQ: (4, 48, 0),
    WeightFormat.GPTQ: (4, 48, 0),
}


def _up(count: int, to: int) -> int:
    return -(-count // to) * to


def packed_bytes(weight: Weight) -> int:
    """Bytes of a weight in the arena."""
    if is_vector(weight):
        return _up(4 * weight.cols, 64)
    cols = weight.cols
    if weight.format == WeightFormat.F32:
        tile = cols * 64
    elif weight.format == WeightFormat.F16:
        tile = _up(cols * 32, 64)
    elif weight.format == WeightFormat.BF16:
        tile = (cols + 1) // 2 * 64
    elif weight.format == WeightFormat.INT8:
        tile = _up(cols * 16 + 64, 64)  # one scale of 4 bytes a row
    else:
        bits, record, share = _RECORDS[weight.format]
        tile = _up(cols * 2 * bits + cols // (share or weight.group) * record, 64)
    return -(-weight.rows // TILE_ROWS) * tile


def is_vector(weight: Weight) -> bool:
    return weight.name.endswith(("norm.weight", ".bias", ".sinks"))


def weight_bytes(weights: Iterable[Weight]) -> int:
    """The arena's bytes."""
    return sum(packed_bytes(weight) for weight in weights)


# ---------------------------------------------------------------- KV memory


def kv_block_bytes(model: ModelDescription, kv_dtype: str, block_len: int) -> int:
    """Bytes of one block of `block_len` tokens over all layers, on a CPU."""
    heads = [(layer.attention.kv_heads, layer.attention.head_dim) for layer in model.layers]
    return sum(count * _kv_head_bytes(KV_TYPES[kv_dtype], head_dim, block_len) for count, head_dim in heads)


def _kv_head_bytes(kind: str, head_dim: int, block_len: int) -> int:
    """K, V and scales of one head in a block, each part padded to 64 bytes."""
    key_bits, value_bits = {
        "f32": (32, 32),
        "f16": (16, 16),
        "bf16": (16, 16),
        "int8": (8, 8),
        "k8v4": (8, 4),
        "int4": (4, 4),
    }[kind]
    keys = _up(block_len * head_dim * key_bits // 8, 64)
    values = block_len * _up(head_dim, 32 if value_bits == 4 else 16) * value_bits // 8
    scales = 8 * block_len if kind in ("int8", "k8v4", "int4") else 0  # f16 scale and zero of K and of V
    return _up(_up(keys + values, 64) + scales, 64)


# ---------------------------------------------------------------- scratch


def scratch_bytes(model: ModelDescription, max_step_tokens: int, threads: int) -> int:
    """Activations of a step: what a pass of the layers takes, and what each thread has of its own."""
    attention = [layer.attention for layer in model.layers]
    mixtures = [layer.mlp.moe for layer in model.layers]
    queries = max(a.heads * a.head_dim for a in attention)
    keys = max(a.kv_heads * a.head_dim for a in attention)
    inner = max(layer.mlp.intermediate for layer in model.layers)
    experts, top_k = max(m.experts for m in mixtures), max(m.top_k for m in mixtures)
    hidden, widest = model.hidden, max(model.hidden, queries)
    tokens = min(max_step_tokens, max(512, 64 * threads))
    by_blocks = not experts and tokens >= 32 * threads  # a long pass is shared out by tokens
    shared = min(tokens, 32 * threads) if by_blocks else tokens
    own = min(tokens, 64 if by_blocks else 4)

    total = 4 * tokens * (hidden + 2 * queries + 2 * keys) + 4 * max_step_tokens * hidden
    if any(layer.attn_post_norm or layer.mlp_post_norm for layer in model.layers):
        total += 4 * tokens * hidden
    total += (
        _prepared(shared, widest) + _prepared(shared, inner) + _prepared(min(max_step_tokens, 64), hidden)
    )
    each = _prepared(own, widest) + (_prepared(own, inner) if by_blocks else 0) + 64 * max(widest, inner)
    total += threads * (each + _THREAD_BYTES)
    if experts:
        slots = tokens * top_k
        total += _prepared(slots, hidden) + _prepared(slots, inner)
        total += 4 * tokens * _up(experts, TILE_ROWS) + slots * (16 + 4 * TILE_ROWS * threads)
    return total


def _prepared(rows: int, cols: int) -> int:
    """Activations in every kind that a matrix asks for: float32, bfloat16 and int8 with its scales and sums."""
    return rows * (7 * cols + 20 * -(-cols // 32))


def logit_bytes(vocab: int, max_rows: int, max_step_tokens: int) -> int:
    """Logits that exist at once (32 MiB, and 64 rows, where that is eight rows or more)."""
    fit = min(max(8, (32 << 20) // (4 * vocab)), 64)
    return 4 * vocab * min(fit, max(max_rows, 16), max_step_tokens)
