"""Which kind each layer of a model is, from its config.json as its makers wrote it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from plan_machines import SMOLLM2

from deploykit.checkpoint.facts import Facts
from deploykit.plan.kinds import Layers, layers_of


def model(layers: int, model_type: str = "llama", /, **config: Any) -> Facts:
    return msgspec.structs.replace(
        SMOLLM2,
        num_layers=layers,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        hidden_size=4096,
        model_type=model_type,
        sliding_window=config.get("sliding_window"),
        config={"model_type": model_type, **config},
    )


def counts(facts: Facts) -> dict[str, int]:
    return {layer.kind: layer.count for layer in layers_of(facts)}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (model(32), {"full": 32}),
        # every layer looks back a window: Mistral 7B v0.1, Phi-3
        (model(32, "mistral", sliding_window=4096), {"window": 32}),
        # one in six sees all: layers 6, 12, …
        (model(48, "gemma3_text", sliding_window=1024), {"window": 40, "full": 8}),
        (model(62, "gemma3_text", sliding_window=1024, sliding_window_pattern=6), {"window": 52, "full": 10}),
        (model(46, "gemma2", sliding_window=4096), {"window": 23, "full": 23}),
        (model(32, "cohere2", sliding_window=4096, sliding_window_pattern=4), {"window": 24, "full": 8}),
        (model(36, "gpt_oss", sliding_window=128), {"window": 18, "full": 18}),
        (
            model(64, "exaone4", sliding_window=4096, sliding_window_pattern="LLLG"),
            {"window": 48, "full": 16},
        ),
        # the list goes before any rule
        (
            model(
                4,
                "gemma3_text",
                sliding_window=512,
                layer_types=["sliding_attention"] * 3 + ["full_attention"],
            ),
            {"window": 3, "full": 1},
        ),
        # Qwen 2: windows from a layer on, and only where they are switched on
        (
            model(28, "qwen2", sliding_window=4096, use_sliding_window=True, max_window_layers=21),
            {"full": 21, "window": 7},
        ),
        (model(48, "llama4_text", attention_chunk_size=8192, no_rope_layers=[]), {"chunked": 36, "full": 12}),
        (
            model(4, "llama4_text", attention_chunk_size=8192, no_rope_layers=[1, 1, 0, 1]),
            {"chunked": 3, "full": 1},
        ),
        (
            model(
                8, "minimax", attn_type_list=[0, 0, 0, 0, 0, 0, 0, 1], num_attention_heads=32, head_dim=128
            ),
            {"state": 7, "full": 1},
        ),
        # RecurrentGemma: what it calls attention has a window
        (
            model(
                26,
                "recurrent_gemma",
                block_types=["recurrent", "recurrent", "attention"],
                lru_width=2560,
                attention_window_size=2048,
            ),
            {"state": 18, "window": 8},
        ),
        # Nemotron-H: a letter a layer
        (
            model(
                6,
                "nemotron_h",
                hybrid_override_pattern="M-M*-M",
                mamba_num_heads=128,
                mamba_head_dim=64,
                n_groups=8,
                ssm_state_size=128,
                conv_kernel=4,
            ),
            {"state": 3, "none": 2, "full": 1},
        ),
        # Falcon-H1: both in every layer; Zamba2: attention beside some
        (
            model(
                36,
                "falcon_h1",
                mamba_d_ssm=4096,
                mamba_n_heads=64,
                mamba_d_head=64,
                mamba_n_groups=1,
                mamba_d_state=256,
            ),
            {"full": 36, "state": 36},
        ),
        (
            model(4, "zamba2", layers_block_type=["mamba", "mamba", "hybrid", "mamba"], mamba_d_state=64),
            {"state": 4, "full": 1},
        ),
        (
            model(8, "mimo_v2_flash", sliding_window=128, hybrid_layer_pattern=[0, 1, 1, 1, 1, 0, 1, 1]),
            {"window": 6, "full": 2},
        ),
        # Gemma 3n: the last layers read an earlier one's
        (
            model(
                10,
                "gemma3n_text",
                sliding_window=512,
                num_kv_shared_layers=4,
                layer_types=[*["sliding_attention"] * 4, "full_attention"],
            ),
            {"window": 5, "full": 1, "none": 4},
        ),
        (
            model(
                4,
                "kimi_linear",
                kv_lora_rank=512,
                qk_rope_head_dim=64,
                linear_attn_config={"full_attn_layers": [4], "num_heads": 32, "head_dim": 128},
            ),
            {"state": 3, "latent": 1},
        ),
    ],
)
def test_kinds_of_layers(facts: Facts, expected: dict[str, int]) -> None:
    assert counts(facts) == expected


def test_sizes_that_differ_by_kind() -> None:
    """MiMo: windows have more KV heads; values are narrower than keys in both."""
    facts = model(
        2,
        "mimo_v2_flash",
        sliding_window=128,
        hybrid_layer_pattern=[0, 1],
        head_dim=192,
        v_head_dim=128,
        swa_num_key_value_heads=8,
        swa_head_dim=192,
        swa_v_head_dim=128,
    )
    facts = msgspec.structs.replace(facts, num_kv_heads=4, head_dim=192)
    assert set(layers_of(facts)) == {
        Layers(kind="full", kv_heads=4, key_dim=192, value_dim=128),
        Layers(kind="window", kv_heads=8, key_dim=192, value_dim=128, span=128),
    }


def test_the_language_models_part_of_a_vision_models_config_counts() -> None:
    config = {"text_config": {"num_hidden_layers": 48, "model_type": "gemma3_text", "sliding_window": 1024}}
    facts = msgspec.structs.replace(model(48, "gemma3", sliding_window=1024), config=config)
    assert counts(facts) == {"window": 40, "full": 8}
