"""Formulas of KV memory and of positions. All results are bytes or tokens, and exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploykit.plan.kinds import text_config

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def kv_bytes_per_token(facts: Facts, kv_dtype: str) -> int:
    """Keys and values of one token over all layers: `2 * layers * kv_heads * head_dim * bytes`."""
    return 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim * DTYPE_BYTES[kv_dtype]


def blocks_for(tokens: int, block_len: int) -> int:
    """Blocks that hold `tokens`."""
    return -(-tokens // block_len)


def trained_len(facts: Facts) -> int:
    """Positions the checkpoint is good for, its own rope scaling counted.

    `max_position_embeddings` includes the scaling for `llama3` and `longrope`; `yarn` stretches
    `original_max_position_embeddings` and `linear` and `dynamic` stretch `max_position_embeddings` by `factor`.
    """
    base = facts.max_position_embeddings
    config = text_config(facts.config)
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, dict):
        return base
    nested = rope.get("full_attention")
    rope = nested if isinstance(nested, dict) else rope
    factor = _number(rope.get("factor"))
    if factor is None or factor <= 1:
        return base
    kind = rope.get("rope_type") or rope.get("type")
    if kind == "yarn":
        original = _number(rope.get("original_max_position_embeddings"))
        return max(base, int((original or base) * factor))
    if kind in ("linear", "dynamic"):
        return int(base * factor)
    return base


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
