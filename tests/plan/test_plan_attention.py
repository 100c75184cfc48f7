"""Bytes of KV memory by kind of attention and precision, worked out by hand; kinds that no engine runs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from plan_machines import GIB, SMOLLM2, facts, gpu_machine, machine, recipe
from plan_machines import H100 as CARD
from plan_models import MODELS

from deploykit.checkpoint.facts import Facts
from deploykit.plan import PlanError, make_plan
from deploykit.plan.attention import unsupported_attention

KIB = 1024


def sized(layers: int, heads: int, kv_heads: int, head_dim: int, **changes: Any) -> Facts:
    """A Llama of these sizes; weights of 64 columns, since memory for keys and values is all that is asked."""
    fields: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "num_layers": layers,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": 1024,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    return facts(**(fields | changes))


FULL = sized(32, 32, 32, 128)  # Llama 2 7B: every head has keys and values of its own
GROUPED = sized(32, 32, 8, 128)  # Llama 3 8B: four heads share
SHARED = sized(18, 8, 1, 256)  # Gemma 2B: all heads share one
WINDOW = sized(32, 32, 8, 128, architecture="MistralForCausalLM", model_type="mistral", sliding_window=1024)


@pytest.mark.parametrize(
    ("model", "policy", "per_token"),
    [
        # 2 (K and V) * layers * kv_heads * head_dim * bytes
        (FULL, "none", 2 * 32 * 32 * 128 * 2),  # 512 KiB
        (GROUPED, "none", 2 * 32 * 8 * 128 * 2),  # 128 KiB
        (SHARED, "none", 2 * 18 * 1 * 256 * 2),  # 18 KiB
        (WINDOW, "none", 2 * 32 * 8 * 128 * 2),  # blocks hold whole sessions, window or not
        # 8 bits: a byte each, and 8 bytes of scales and zeros a token and head
        (FULL, "int8", 32 * 32 * (128 + 128 + 8)),  # 264 KiB
        (GROUPED, "int8", 32 * 8 * (128 + 128 + 8)),  # 66 KiB
        (SHARED, "int8", 18 * 1 * (256 + 256 + 8)),
        (WINDOW, "int8", 32 * 8 * (128 + 128 + 8)),
        # K at 8, V at 4
        (GROUPED, "k8v4", 32 * 8 * (128 + 64 + 8)),  # 50 KiB
        (FULL, "k8v4", 32 * 32 * (128 + 64 + 8)),
        # 4 bits: half a byte each
        (FULL, "int4", 32 * 32 * (64 + 64 + 8)),  # 136 KiB
        (GROUPED, "int4", 32 * 8 * (64 + 64 + 8)),  # 34 KiB
        (SHARED, "int4", 18 * 1 * (128 + 128 + 8)),
        (WINDOW, "int4", 32 * 8 * (64 + 64 + 8)),
    ],
)
def test_bytes_of_a_token_on_both_devices(model: Facts, policy: str, per_token: int) -> None:
    wanted = recipe(engine={"cache": {"quant_policy": policy}, "session_len": 1024})
    for here in (machine(total=64 * GIB), gpu_machine(CARD)):
        plan = make_plan(wanted, model, here, name="m")
        assert plan.engine == "native"
        assert plan.block_bytes == 64 * per_token
        kv = next(item.bytes for item in plan.memory if item.name == "kv")
        assert kv == plan.num_blocks * 64 * per_token


def test_the_figures_that_are_known_by_heart() -> None:
    def kib(model: Facts) -> float:
        return make_plan(recipe(), model, gpu_machine(CARD), name="m").block_bytes / 64 / KIB

    assert [kib(model) for model in (FULL, GROUPED, SHARED)] == [512, 128, 18]


def test_float32_takes_twice_the_bytes_on_a_cpu() -> None:
    wanted = recipe(model={"path": "m", "dtype": "float32"}, engine={"session_len": 512})
    for backend in ("native", "pytorch"):
        here = wanted.model_copy(update={"engine": wanted.engine.model_copy(update={"backend": backend})})
        assert make_plan(here, GROUPED, machine(total=64 * GIB), name="m").block_bytes == 64 * 256 * KIB


def test_a_window_is_planned_for_whole_sessions_and_says_so() -> None:
    config = {"sliding_window": 1024}
    plan = make_plan(recipe(), msgspec.structs.replace(WINDOW, config=config), gpu_machine(CARD), name="m")
    note = next(d for d in plan.decisions if d.key == "engine.cache")
    assert "1,024" in note.reason
    assert plan.block_bytes == 64 * 128 * KIB


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kv_lora_rank": 512}, "latent attention (MLA)"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear attention"),
        ({"layer_types": ["chunked_attention"]}, "chunked-local attention"),
        ({"layer_types": ["conv", "full_attention"]}, "convolution layers"),
        ({"layer_types": ["something_new"]}, "'something_new'"),
        ({"layers_block_type": ["mamba", "attention"]}, "state-space layers"),
        ({"block_types": ["recurrent", "recurrent", "attention"]}, "recurrent layers"),
        ({"attn_type_list": [0, 0, 1]}, "linear attention"),
        ({"linear_attn_config": {"kda_layers": [1]}}, "linear attention"),
        ({"hybrid_override_pattern": "M-M*"}, "state-space layers"),
        ({"attention_chunk_size": 8192}, "chunked-local attention"),
        ({"compress_ratios": [0, 4, 128]}, "compressed attention"),
        ({"layer_types": ["sliding_attention", "compressed_sparse_attention"]}, "compressed attention"),
        ({"cross_attention_layers": [3, 8]}, "cross-attention"),
        ({"is_encoder_decoder": True}, "cross-attention"),
    ],
)
def test_kinds_that_no_engine_runs_are_refused_by_name(config: dict[str, Any], words: str) -> None:
    model = msgspec.structs.replace(SMOLLM2, config=config)
    for backend in ("auto", "native", "pytorch"):
        with pytest.raises(PlanError) as caught:
            make_plan(recipe(engine={"backend": backend}), model, gpu_machine(CARD), name="m")
        assert words in str(caught.value.why)
        assert f"config.json: {next(iter(config))}" in str(caught.value.why)
        assert caught.value.exit_code == 3


def test_kinds_that_are_run_are_not_refused() -> None:
    for name in ("llama", "mha", "mistral", "qwen3", "gemma2", "mixtral", "cohere"):
        assert unsupported_attention(MODELS[name]) is None
    for config in (
        {"kv_lora_rank": None},
        {"layer_types": ["sliding_attention", "full_attention"]},
        {"layer_types": 3},
    ):
        assert unsupported_attention(msgspec.structs.replace(SMOLLM2, config=config)) is None
