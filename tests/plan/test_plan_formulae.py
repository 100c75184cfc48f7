"""KV memory by kind of layer against numbers that were worked out by hand: the arithmetic stands beside each."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from plan_machines import GIB, QWEN3_8B, SMOLLM2, gpu_machine, machine, recipe
from plan_machines import H100 as CARD

from deploykit.checkpoint.facts import Facts
from deploykit.plan import make_plan
from deploykit.plan.formulae import (
    KVTable,
    heads_of,
    kv_table,
    page_bytes,
    pages,
    sequence_bytes,
    state_bytes,
    token_bytes,
)
from deploykit.plan.kinds import Layers, UnknownKindError, layers_of

KIB, MIB = 1 << 10, 1 << 20


def model(layers: int, heads: int, kv_heads: int, head_dim: int, hidden: int = 64, /, **config: Any) -> Facts:
    """A checkpoint of these sizes; what else its config.json says is given by name."""
    fields = {
        "architecture": "LlamaForCausalLM",
        "model_type": config.get("model_type", "llama"),
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_size": hidden,
        "sliding_window": config.get("sliding_window"),
    }
    return msgspec.structs.replace(SMOLLM2, tensors=(), config=config, **fields)


DEEPSEEK_V3 = model(61, 128, 128, 56, 7168, kv_lora_rank=512, qk_rope_head_dim=64, model_type="deepseek_v3")
GEMMA_3_12B = model(48, 16, 8, 256, 3840, model_type="gemma3_text", sliding_window=1024)
GEMMA_2_9B = model(42, 16, 8, 256, 3584, model_type="gemma2", sliding_window=4096)
GPT_OSS_20B = model(24, 64, 8, 64, 2880, model_type="gpt_oss", sliding_window=128)
LLAMA_4_SCOUT = model(48, 40, 8, 128, 5120, model_type="llama4_text", attention_chunk_size=8192)
QWEN3_NEXT = model(
    48,
    16,
    2,
    256,
    2048,
    model_type="qwen3_next",
    full_attention_interval=4,
    linear_num_key_heads=16,
    linear_key_head_dim=128,
    linear_num_value_heads=32,
    linear_value_head_dim=128,
    linear_conv_kernel_dim=4,
)
JAMBA = model(
    32,
    32,
    8,
    128,
    4096,
    model_type="jamba",
    attn_layer_period=8,
    attn_layer_offset=4,
    mamba_d_state=16,
    mamba_d_conv=4,
    mamba_expand=2,
)


def table(facts: Facts, session_len: int = 32768, **changes: Any) -> KVTable:
    return kv_table(facts, session_len=session_len, **changes)


# ---------------------------------------------------------------- a token


@pytest.mark.parametrize(
    ("facts", "precision", "expected"),
    [
        # heads: layers * kv_heads * (K + V)
        (SMOLLM2, "bfloat16", 30 * 3 * (64 + 64) * 2),  # 23,040 = 22.5 KiB
        (QWEN3_8B, "bfloat16", 36 * 8 * (128 + 128) * 2),  # 147,456 = 144 KiB
        (
            QWEN3_8B,
            "int8",
            36 * 8 * (128 + 128 + 8),
        ),  # 76,032 = 74.25 KiB: a scale and a zero of 2 bytes each
        (QWEN3_8B, "k8v4", 36 * 8 * (128 + 64 + 8)),  # 57,600 = 56.25 KiB
        (QWEN3_8B, "int4", 36 * 8 * (64 + 64 + 8)),  # 39,168 = 38.25 KiB
        (QWEN3_8B, "fp8", 36 * 8 * (128 + 128)),  # 73,728 = 72 KiB: one scale for all
        (QWEN3_8B, "float32", 36 * 8 * (128 + 128) * 4),
        (model(32, 32, 32, 128), "bfloat16", 32 * 32 * 256 * 2),  # Llama 2 7B, every head its own: 512 KiB
        (model(18, 8, 1, 256), "bfloat16", 18 * 1 * 512 * 2),  # Gemma 2B, one for all: 18 KiB
        # latent: layers * (kv_lora_rank + qk_rope_dim)
        (DEEPSEEK_V3, "bfloat16", 61 * (512 + 64) * 2),  # 70,272 = 68.6 KiB
        (DEEPSEEK_V3, "fp8", 61 * (512 + 64)),  # 34.3 KiB
        (DEEPSEEK_V3, "int8", 61 * (512 + 64 + 4)),  # one vector: one scale and one zero
        (DEEPSEEK_V3, "k8v4", 61 * (512 + 64 + 4)),  # the vector is key and value: it stays at 8 bits
        (DEEPSEEK_V3, "int4", 61 * (288 + 4)),
    ],
)
def test_bytes_of_a_token(facts: Facts, precision: str, expected: int) -> None:
    assert table(facts, precision=precision).token_bytes == expected


def test_the_figures_that_are_known_by_heart() -> None:
    def kib(facts: Facts, precision: str = "bfloat16") -> float:
        return table(facts, precision=precision).token_bytes / KIB

    assert kib(SMOLLM2) == 22.5
    assert [kib(QWEN3_8B, p) for p in ("bfloat16", "int8", "int4")] == [144, 74.25, 38.25]
    assert kib(DEEPSEEK_V3) == 68.625


def test_the_formulas_agree_with_what_the_engine_states_of_itself() -> None:
    """Heads of 128 need no padding, so that the native engine's own layout is the formula's to the byte."""
    for policy in ("none", "int8", "k8v4", "int4"):
        wanted = recipe(engine={"cache": {"quant_policy": policy}, "session_len": 1024})
        for here in (gpu_machine(CARD), machine(total=64 * GIB)):
            plan = make_plan(wanted, QWEN3_8B, here, name="m")
            precision = "bfloat16" if policy == "none" else policy
            assert plan.engine == "native"
            assert plan.block_bytes == 64 * table(QWEN3_8B, precision=precision).token_bytes


# ---------------------------------------------------------------- several devices


def test_heads_are_shared_out_to_devices_and_copied_where_there_are_too_few() -> None:
    assert [heads_of(8, tp) for tp in (1, 2, 3, 8, 16)] == [8, 4, 3, 1, 1]
    per_token = [table(QWEN3_8B, tp=tp).token_bytes for tp in (1, 2, 8, 16)]
    assert per_token == [147_456, 73_728, 18_432, 18_432]
    assert "copied" in table(QWEN3_8B, tp=16).rows[0].note


def test_a_latent_vector_stands_whole_on_every_device() -> None:
    assert table(DEEPSEEK_V3, tp=8).token_bytes == table(DEEPSEEK_V3).token_bytes == 70_272
    assert "same on every device" in table(DEEPSEEK_V3, tp=8).rows[0].note


def test_a_state_is_shared_out_to_devices() -> None:
    assert state_bytes(Layers(kind="state", conv=300, recurrent=1000), tp=2) == 150 * 2 + 500 * 4


# ---------------------------------------------------------------- windows and chunks


def test_gemma_3_12b_at_32k() -> None:
    """Every sixth layer sees all: 8 of 48. 8 KV heads of 256 are 8 KiB a token and layer."""
    here = table(GEMMA_3_12B, block_len=16, prefill=2048)
    full, window = sorted(here.rows, key=lambda row: row.layers)
    assert (full.kind, full.layers, window.kind, window.layers) == ("full", 8, "window", 40)
    assert here.whole_bytes == 48 * 8 * KIB * 32768 == 12 * GIB
    assert full.session_bytes == 8 * 8 * KIB * 32768 == 2 * GIB
    # 1024 - 1 + 2048 = 3,071 tokens: 192 pages of 16, and one more
    assert window.pages == 193
    assert window.session_bytes == 40 * 193 * 16 * 8 * KIB
    assert round(here.session_bytes / GIB, 1) == 2.9
    assert here.token_bytes == 8 * 8 * KIB  # what grows: the layers that see all


def test_pages_of_a_window() -> None:
    window = Layers(kind="window", kv_heads=8, key_dim=128, value_dim=128, span=4096)
    assert pages(window, 32768, 512, 64) == 73  # 4,607 tokens: 72 pages, and one
    assert pages(window, 32768, 8192, 64) == 193  # 12,287 tokens
    assert pages(window, 4096, 8192, 64) == 64  # a session no longer than the window: all of it
    assert pages(window, 100, 512, 64) == 2
    assert pages(msgspec.structs.replace(window, span=1), 32768, 1, 64) == 2


def test_pages_of_a_chunk() -> None:
    chunk = Layers(kind="chunked", kv_heads=8, key_dim=128, value_dim=128, span=8192)
    assert pages(chunk, 131072, 2048, 64) == 160  # 10,240 tokens
    assert pages(chunk, 4096, 2048, 64) == 64


def test_llama_4_scout_at_128k() -> None:
    """Every fourth layer sees all: 12 of 48. 8 KV heads of 128 are 4 KiB a token and layer."""
    here = table(LLAMA_4_SCOUT, 131072, prefill=2048)
    assert [(row.kind, row.layers) for row in here.rows] == [("chunked", 36), ("full", 12)]
    assert here.rows[0].session_bytes == 36 * 160 * 64 * 4 * KIB  # 1.4 GiB
    assert here.rows[1].session_bytes == 12 * 131072 * 4 * KIB == 6 * GIB
    assert here.whole_bytes == 48 * 131072 * 4 * KIB == 24 * GIB


def test_gemma_2_and_gpt_oss_alternate() -> None:
    assert [(row.kind, row.layers) for row in table(GEMMA_2_9B).rows] == [("window", 21), ("full", 21)]
    here = table(GPT_OSS_20B, prefill=128)
    assert [(row.kind, row.layers) for row in here.rows] == [("window", 12), ("full", 12)]
    # 128 - 1 + 128 = 255 tokens: 4 pages of 64, and one; 8 heads of 64 are 2 KiB a token and layer
    assert here.rows[0].session_bytes == 12 * 5 * 64 * 2 * KIB
    assert here.rows[1].session_bytes == 12 * 32768 * 2 * KIB == 768 * MIB


# ---------------------------------------------------------------- states


def test_qwen3_next() -> None:
    here = table(QWEN3_NEXT)
    assert [(row.kind, row.layers) for row in here.rows] == [("state", 36), ("full", 12)]
    # 2 * 16 * 128 + 32 * 128 = 8,192 channels, 3 inputs each in 16 bits; 32 matrices of 128 x 128 in float32
    assert here.rows[0].session_bytes == 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 4) == 36 * (48 * KIB + 2 * MIB)
    assert here.token_bytes == 12 * 2 * 512 * 2 == 24 * KIB
    short = table(QWEN3_NEXT, 1024)
    assert short.rows[0].session_bytes == here.rows[0].session_bytes  # however long the session


def test_jamba() -> None:
    here = table(JAMBA)
    assert [(row.kind, row.layers) for row in here.rows] == [("state", 28), ("full", 4)]
    # 2 * 4096 channels: 3 inputs in 16 bits, 16 numbers in float32
    assert here.rows[0].session_bytes == 28 * 8192 * (3 * 2 + 16 * 4)
    assert here.token_bytes == 4 * 8 * 256 * 2  # 16 KiB; 32 layers of attention would be 128


@pytest.mark.parametrize(
    ("config", "conv", "recurrent"),
    [
        # Mamba 1: falcon-mamba-7b, 2 * 4096 channels
        (
            {
                "model_type": "falcon_mamba",
                "hidden_size": 4096,
                "state_size": 16,
                "conv_kernel": 4,
                "expand": 2,
            },
            8192 * 3,
            8192 * 16,
        ),
        # Mamba 2: 128 heads of 64, 8 groups of 128 for B and for C
        (
            {
                "model_type": "mamba2",
                "hidden_size": 4096,
                "num_heads": 128,
                "head_dim": 64,
                "n_groups": 8,
                "state_size": 128,
                "conv_kernel": 4,
                "expand": 2,
            },
            (8192 + 2 * 8 * 128) * 3,
            128 * 64 * 128,
        ),
        # Bamba: heads by name
        (
            {
                "attn_layer_indices": [],
                "mamba_n_heads": 128,
                "mamba_d_head": 64,
                "mamba_n_groups": 1,
                "mamba_d_state": 128,
                "mamba_d_conv": 4,
            },
            (8192 + 2 * 128) * 3,
            8192 * 128,
        ),
        # RecurrentGemma: one number a channel
        ({"block_types": ["recurrent"], "lru_width": 2560, "conv1d_width": 4}, 2560 * 3, 2560),
        # LFM2: the last two inputs
        ({"layer_types": ["conv"], "hidden_size": 2048, "conv_L_cache": 3}, 2048 * 2, 0),
        # MiniMax: a square matrix a head
        (
            {"attn_type_list": [0], "num_attention_heads": 64, "head_dim": 128, "hidden_size": 6144},
            0,
            64 * 128 * 128,
        ),
        # Kimi Linear
        (
            {
                "linear_attn_config": {
                    "full_attn_layers": [4],
                    "num_heads": 32,
                    "head_dim": 128,
                    "short_conv_kernel_size": 4,
                }
            },
            3 * 32 * 128 * 3,
            32 * 128 * 128,
        ),
        ({"model_type": "rwkv", "hidden_size": 2048, "attention_hidden_size": 2048}, 2 * 2048, 3 * 2048),
        ({"model_type": "rwkv6", "hidden_size": 2048, "head_size": 64}, 2 * 2048, 2048 * 64),
    ],
)
def test_states(config: dict[str, Any], conv: int, recurrent: int) -> None:
    (layers,) = layers_of(model(1, 32, 8, 128, **config))
    assert (layers.kind, layers.conv, layers.recurrent) == ("state", conv, recurrent)
    assert state_bytes(layers) == 2 * conv + 4 * recurrent
    assert token_bytes(layers, "bfloat16") == 0


# ---------------------------------------------------------------- encoders


def test_cross_attention_keeps_the_encoders_positions() -> None:
    """Llama 3.2 11B Vision: 4 tiles of (560 / 14)^2 + 1 positions, in 8 of 40 layers."""
    facts = model(40, 32, 8, 128, cross_attention_layers=[3, 8, 13, 18, 23, 28, 33, 38])
    vision = {"image_size": 560, "patch_size": 14, "max_num_tiles": 4}
    facts = msgspec.structs.replace(facts, config={"text_config": facts.config, "vision_config": vision})
    here = table(facts)
    assert [(row.kind, row.layers) for row in here.rows] == [("full", 32), ("cross", 8)]
    # 6,404 positions are 101 pages of 64; 4 KiB a token and layer
    assert here.rows[1].session_bytes == 8 * 101 * 64 * 4 * KIB
    assert here.token_bytes == 32 * 4 * KIB


def test_encoder_and_decoder() -> None:
    """Whisper large: 32 layers of 20 heads of 64, which keep their own tokens and 1,500 positions of sound."""
    config = {"is_encoder_decoder": True, "decoder_layers": 32, "max_source_positions": 1500}
    here = table(model(32, 20, 20, 64, **config), 448)
    assert {row.kind: row.pages for row in here.rows} == {"full": 7, "cross": 24}
    assert here.session_bytes == 32 * (7 + 24) * 64 * 20 * 128 * 2


def test_an_encoder_keeps_nothing() -> None:
    here = table(model(12, 12, 12, 64, model_type="bert"))
    assert (here.token_bytes, here.session_bytes) == (0, 0)
    assert here.rows[0].note == "keeps nothing of a sequence"


# ---------------------------------------------------------------- sums


def test_a_session_is_the_sum_over_its_pages() -> None:
    layers = Layers(kind="full", count=36, kv_heads=8, key_dim=128, value_dim=128)
    assert page_bytes(layers, "bfloat16", 64) == 64 * 4 * KIB
    one = sequence_bytes(
        layers, "bfloat16", session_len=8192, prefill=512, block_len=64, dtype="bfloat16", tp=1
    )
    assert one == 36 * 128 * 64 * 4 * KIB == 8192 * 144 * KIB
    # 48 GiB hold 42 sessions of 8k in 16 bits, 82 in int8 and 160 in int4
    pool = int(47.75 * GIB)
    held = {p: pool // table(QWEN3_8B, 8192, precision=p).session_bytes for p in ("bfloat16", "int8", "int4")}
    assert held == {"bfloat16": 42, "int8": 82, "int4": 159}


def test_deepseek_sparse_attention_keeps_keys_to_choose_by() -> None:
    """V3.2: 128 values of 8 bits and a float32 scale a token and layer, beside the latent vector."""
    facts = msgspec.structs.replace(
        DEEPSEEK_V3, config={**DEEPSEEK_V3.config, "index_topk": 2048, "index_head_dim": 128}
    )
    assert table(facts).token_bytes == 61 * (576 * 2 + 132)


def test_layers_that_use_an_earlier_choice_keep_no_keys_to_choose_by() -> None:
    """GLM-5.2: one layer in four chooses, from the third on."""
    types = ["full" if i < 3 or i % 4 == 2 else "shared" for i in range(61)]
    config = {**DEEPSEEK_V3.config, "index_topk": 2048, "index_head_dim": 128, "indexer_types": types}
    facts = msgspec.structs.replace(DEEPSEEK_V3, config=config)
    assert table(facts).token_bytes == 61 * 576 * 2 + types.count("full") * 132


def test_layers_that_no_formula_covers_are_named() -> None:
    for config, words in (
        ({"compress_ratios": [0, 4, 128]}, "compress_ratios"),
        ({"layer_types": ["full_attention", "heavily_compressed_attention"]}, "heavily_compressed_attention"),
        ({"layer_types": ["linear_attention"], "linear_num_value_heads": 4}, "linear_key_head_dim"),
        ({"kv_lora_rank": 512}, "qk_rope_head_dim"),
    ):
        with pytest.raises(UnknownKindError, match=words):
            table(model(2, 4, 4, 64, **config))
