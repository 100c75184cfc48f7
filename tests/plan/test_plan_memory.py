"""Formulas against numbers that were worked out by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from plan_machines import GIB, QWEN3_8B, SMOLLM2

from deploykit.checkpoint.facts import Facts
from deploykit.plan.memory import blocks_for, kv_bytes_per_token, trained_len
from deploykit.plan.text import format_bytes

KIB = 1024


@pytest.mark.parametrize(
    ("facts", "dtype", "kib"),
    [
        (SMOLLM2, "bfloat16", 22.5),  # 2 * 30 layers * 3 heads * 64 * 2 B
        (SMOLLM2, "float32", 45),
        (QWEN3_8B, "bfloat16", 144),  # 2 * 36 layers * 8 heads * 128 * 2 B
        (QWEN3_8B, "float16", 144),
    ],
)
def test_kv_bytes_per_token(facts: Facts, dtype: str, kib: float) -> None:
    assert kv_bytes_per_token(facts, dtype) == kib * KIB


def test_tokens_in_a_pool() -> None:
    assert 8 * GIB // kv_bytes_per_token(SMOLLM2, "bfloat16") == 372_827
    block = 64 * kv_bytes_per_token(QWEN3_8B, "bfloat16")
    assert int(47.75 * GIB) // block == 5_432
    assert 5_432 * 64 == 347_648
    assert 347_648 // 8192 == 42


def test_blocks_round_up() -> None:
    assert [blocks_for(n, 64) for n in (1, 63, 64, 65, 8192)] == [1, 1, 1, 2, 128]


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, 8192),
        ({"rope_scaling": None}, 8192),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}},
            32768,
        ),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 32768),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2}}, 16384),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 16384),
        # max_position_embeddings of these includes the scaling already
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "original_max_position_embeddings": 256,
                }
            },
            8192,
        ),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 4.0}}, 8192),
        ({"rope_parameters": {"rope_type": "default", "factor": 4.0}}, 8192),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}, 65536),
        # nonsense is no scaling
        ({"rope_scaling": {"rope_type": "yarn", "factor": "4"}}, 8192),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0.5}}, 8192),
        ({"rope_scaling": "yarn"}, 8192),
        ({"rope_scaling": {"rope_type": "yarn", "factor": True}}, 8192),
    ],
)
def test_trained_length_counts_the_checkpoints_own_rope_scaling(config: dict[str, Any], length: int) -> None:
    assert trained_len(msgspec.structs.replace(SMOLLM2, config=config)) == length


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (78 * GIB, "78.0 GiB"),
        (1 << 41, "2.0 TiB"),
    ],
)
def test_bytes_as_text(count: int, text: str) -> None:
    assert format_bytes(count) == text
