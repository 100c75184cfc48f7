"""What each family adds to the config.json that all of them have in common (gguf_config.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deploykit.checkpoint.gguf_rope import rope_parameters
from deploykit.checkpoint.gguf_source import Source

# Gemma's models of 27B scale attention by hidden / heads, not by the head size; ggml tells them by their layers.
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}


def _rope(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    return rope_parameters(source.meta, source.arch, source.family, source.tensors, config["head_dim"])


def _rms(source: Source) -> float:
    return source.meta.number(source.key("attention.layer_norm_rms_epsilon"), high=1.0)


def _epsilon(source: Source) -> float:
    return source.meta.number(source.key("attention.layer_norm_epsilon"), high=1.0)


def _no_window(source: Source, config: dict[str, Any]) -> None:
    context = config["max_position_embeddings"]
    if source.integer("attention.sliding_window", context, low=0) not in (0, context):
        raise source.meta.unsupported(source.key("attention.sliding_window"))


def _llama(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(source, config)
    return {
        "rms_norm_eps": _rms(source),
        "rope_parameters": _rope(source, config),
        "attention_bias": source.stored("attn_q", "bias"),
        "mlp_bias": source.stored("ffn_gate", "bias"),
    }


def _experts(source: Source) -> tuple[int, int]:
    """(experts, of which a token takes)."""
    experts = source.integer("expert_count", high=1 << 16)
    return experts, source.integer("expert_used_count", high=experts)


def _mixtral(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(source, config)
    experts, used = _experts(source)
    if not source.meta.flag(source.key("expert_weights_norm"), True):
        raise source.meta.unsupported(source.key("expert_weights_norm"))
    return {
        "rms_norm_eps": _rms(source),
        "rope_parameters": _rope(source, config),
        "num_local_experts": experts,
        "num_experts_per_tok": used,
        "sliding_window": None,
    }


def _qwen2(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(source, config)
    return {
        "rms_norm_eps": _rms(source),
        "rope_parameters": _rope(source, config),
        "use_sliding_window": False,
    }


def _qwen3(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    return {**_qwen2(source, config), "attention_bias": False}


def _moe(source: Source, normalized: bool) -> dict[str, Any]:
    experts, used = _experts(source)
    return {
        "num_experts": experts,
        "num_experts_per_tok": used,
        "moe_intermediate_size": source.integer("expert_feed_forward_length", high=1 << 24),
        "norm_topk_prob": source.meta.flag(source.key("expert_weights_norm"), normalized),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _qwen2moe(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    shared = source.integer("expert_shared_feed_forward_length", high=1 << 24)
    own = {**_qwen2(source, config), **_moe(source, normalized=False)}
    return {**own, "shared_expert_intermediate_size": shared, "qkv_bias": True}


def _qwen3moe(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    return {**_qwen3(source, config), **_moe(source, normalized=True)}


def _gpt_oss(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    rope = _rope(source, config)
    if rope["rope_type"] == "yarn":
        rope["truncate"] = False  # of every model of this architecture; the file has no key for it
    return {
        "rms_norm_eps": _rms(source),
        "rope_parameters": rope,
        "attention_bias": source.stored("attn_q", "bias"),
        "sliding_window": source.integer("attention.sliding_window"),
        "layer_types": _alternating(config, source.integer("attention.sliding_window_pattern", 2)),
        **_local_experts(source, config),
    }


def _minimax_m2(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(source, config)
    if not source.meta.flag(source.key("expert_weights_norm"), True):
        raise source.meta.unsupported(source.key("expert_weights_norm"))
    return {
        "rms_norm_eps": _rms(source),
        "rope_parameters": _rope(source, config),
        "sliding_window": None,
        **_local_experts(source, config),
    }


def _local_experts(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    """Experts of the same size as the MLP that the config has no other key for."""
    experts, used = _experts(source)
    inner = config["intermediate_size"]
    if source.integer("expert_feed_forward_length", inner) != inner:
        why = f"it differs from {source.key('feed_forward_length')}, {inner}"
        raise source.meta.bad(source.key("expert_feed_forward_length"), why)
    return {"num_local_experts": experts, "num_experts_per_tok": used}


def _phi3(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    rope, context = _rope(source, config), config["max_position_embeddings"]
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        raise source.meta.unsupported(source.key("attention.key_length"))
    window = source.integer("attention.sliding_window", 0, low=0)
    return {
        "rms_norm_eps": _rms(source),
        "rope_parameters": rope,
        "original_max_position_embeddings": rope.get("original_max_position_embeddings", context),
        "sliding_window": window if 0 < window < context else None,
    }


def _gemma(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(source, config)
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": _rms(source),
        "rope_parameters": _rope(source, config),
        "attention_bias": False,
    }


def _gemma2(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    return {
        **_gemma_windows(source, config, pattern=2),
        "attn_logit_softcapping": source.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": source.number("final_logit_softcapping", 30.0),
        "rope_parameters": _rope(source, config),
    }


def _gemma3(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    pattern = source.integer("attention.sliding_window_pattern", 6, high=4096)
    local = source.number("rope.freq_base_swa", 10000.0)
    final = source.key("final_logit_softcapping")
    full = {**_rope(source, config), "rope_theta": source.number("rope.freq_base", 1e6)}
    return {
        **_gemma_windows(source, config, pattern),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": source.meta.number(final) if final in source.meta else None,
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }


def _gemma_windows(source: Source, config: dict[str, Any], pattern: int) -> dict[str, Any]:
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    largest = layers == _GEMMA_27B_LAYERS[source.arch]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": _rms(source),
        "attention_bias": False,
        "sliding_window": source.integer("attention.sliding_window", 4096 if pattern == 2 else None),
        "layer_types": _alternating(config, pattern),
        "query_pre_attn_scalar": config["hidden_size"] // heads if largest else config["head_dim"],
    }


def _alternating(config: dict[str, Any], pattern: int) -> list[str]:
    """The layers' kinds where every `pattern`-th one has no window."""
    layers = config["num_hidden_layers"]
    return ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)]


def _starcoder2(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(source, config)
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": _epsilon(source),
        "rope_parameters": _rope(source, config),
        "use_bias": source.stored("attn_q", "bias"),
        "sliding_window": None,
    }


def _stablelm(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    rope = _rope(source, config)
    return {
        "layer_norm_eps": _epsilon(source),
        "rope_parameters": rope,
        "partial_rotary_factor": rope["partial_rotary_factor"],
        "use_qkv_bias": source.stored("attn_q", "bias"),
        "qk_layernorm": source.stored("attn_q_norm"),
        "use_parallel_residual": not source.stored("ffn_norm"),
    }


def _nemotron(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    rope = _rope(source, config)
    return {
        "hidden_act": "relu2",
        "norm_eps": _epsilon(source),
        "rope_parameters": rope,
        "partial_rotary_factor": rope["partial_rotary_factor"],
        "attention_bias": source.stored("attn_q", "bias"),
        "mlp_bias": source.stored("ffn_up", "bias"),
    }


def _gpt2(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    if config["num_key_value_heads"] != config["num_attention_heads"]:
        raise source.meta.unsupported(source.key("attention.head_count_kv"))
    return {
        "activation_function": "gelu_new",
        "layer_norm_epsilon": _epsilon(source),
        "n_embd": config["hidden_size"],
        "n_head": config["num_attention_heads"],
        "n_layer": config["num_hidden_layers"],
        "n_positions": config["max_position_embeddings"],
        "n_inner": config["intermediate_size"],
    }


OWN: dict[str, Callable[[Source, dict[str, Any]], dict[str, Any]]] = {
    "llama": _llama,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2moe,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3moe,
    "gpt_oss": _gpt_oss,
    "minimax_m2": _minimax_m2,
    "phi3": _phi3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "starcoder2": _starcoder2,
    "stablelm": _stablelm,
    "nemotron": _nemotron,
    "gpt2": _gpt2,
}
