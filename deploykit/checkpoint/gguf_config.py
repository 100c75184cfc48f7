"""The config.json that says what a GGUF's metadata says; what it can't say is refused, and nothing is guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.gguf import GgufHeader, GgufTensor
from deploykit.checkpoint.gguf_families import FAMILIES, Family
from deploykit.checkpoint.gguf_metadata import Metadata
from deploykit.checkpoint.gguf_rope import rope_parameters

# Metadata that changes what a model computes and that the configs made here have no place for.
_FOREIGN = (
    "embedding_scale",
    "residual_scale",
    "logit_scale",
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.temperature_scale",
    "attention.kv_lora_rank",
    "attention.q_lora_rank",
    "expert_weights_scale",
    "expert_group_count",
    "leading_dense_block_count",
    "nextn_predict_layers",
    "pooling_type",
    "ssm.state_size",
)
_SOFTMAX = 1  # expert_gating_func
# Gemma's models of 27B scale attention by hidden / heads, not by the head size; ggml tells them by their layers.
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}


class Source:
    """A file's metadata and tensor names, read for one architecture."""

    def __init__(self, path: Path, header: GgufHeader) -> None:
        self.path = path
        self.meta = Metadata(path, header.metadata)
        self.tensors: Mapping[str, GgufTensor] = {t.name: t for t in header.tensors}
        found = self.meta.text("general.architecture")
        self.arch = name = found or ""
        if name == "llama" and self.has("expert_count") and self.integer("expert_count", low=0):
            name = "llama+experts"
        if name not in FAMILIES:
            known = ", ".join(n for n in FAMILIES if "+" not in n)
            raise CheckpointError(
                f"GGUF files of the architecture {printable(repr(found))} aren't supported",
                file=path,
                why=f"supported: {known}",
                fix="use the model's checkpoint in safetensors",
            )
        self.family: Family = FAMILIES[name]

    def key(self, name: str) -> str:
        return f"{self.arch}.{name}"

    def has(self, name: str) -> bool:
        return self.key(name) in self.meta

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = 2**31 - 1) -> int:
        return self.meta.integer(self.key(name), default, low=low, high=high)

    def number(self, name: str, default: float | None = None) -> float:
        return self.meta.number(self.key(name), default)

    def stored(self, part: str, leaf: str = "weight") -> bool:
        return f"blk.0.{part}.{leaf}" in self.tensors


def make_config(source: Source) -> dict[str, Any]:
    """config.json of the architecture. Raises CheckpointError that names the key or the tensor."""
    _refuse_foreign(source)
    config = _common(source)
    config.update(_OWN[source.family.model_type](source, config))
    for name, key in (
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "padding_token_id"),
    ):
        value = source.meta.optional_id(f"tokenizer.ggml.{key}", config["vocab_size"])
        if value is not None:
            config[name] = value
    return config


def _refuse_foreign(source: Source) -> None:
    for name in _FOREIGN:
        if source.meta.values.get(source.key(name)) not in (None, 0, 0.0):
            raise source.meta.unsupported(source.key(name))
    if source.integer("expert_gating_func", _SOFTMAX, low=0) != _SOFTMAX:
        raise source.meta.unsupported(source.key("expert_gating_func"))
    if not source.meta.flag(source.key("attention.causal"), True):
        raise source.meta.unsupported(source.key("attention.causal"))


def _common(source: Source) -> dict[str, Any]:
    """What every family says, in the names that most of them have."""
    family, tensors = source.family, source.tensors
    heads = source.integer("attention.head_count", high=4096)
    hidden = source.integer("embedding_length", high=1 << 20)
    if hidden % heads and not source.has("attention.key_length"):
        raise source.meta.bad(source.key("embedding_length"), f"{hidden} isn't a multiple of {heads} heads")
    head_dim = source.integer("attention.key_length", hidden // heads, high=1 << 16)
    if source.integer("attention.value_length", head_dim) != head_dim:
        why = f"it differs from the head size of {head_dim}, which {family.architecture} doesn't know"
        raise source.meta.bad(source.key("attention.value_length"), why)
    kv_heads = source.integer("attention.head_count_kv", heads, high=heads)
    if heads % kv_heads:
        why = f"{heads} heads can't share them evenly"
        raise source.meta.bad(source.key("attention.head_count_kv"), why)
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(
            "a tensor is missing or misshapen", file=source.path, tensor="token_embd.weight"
        )
    if embedding.shape[0] > 1 << 24:
        why = f"{embedding.shape[0]} rows"
        raise CheckpointError(
            "the vocabulary is absurd", file=source.path, tensor="token_embd.weight", why=why
        )
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": source.integer("feed_forward_length", high=1 << 24),
        "num_hidden_layers": source.integer("block_count", high=4096),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": source.integer("context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }


# ---------------------------------------------------------------- what each family adds


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
    kinds = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": _rms(source),
        "attention_bias": False,
        "sliding_window": source.integer("attention.sliding_window", 4096 if pattern == 2 else None),
        "layer_types": kinds,
        "query_pre_attn_scalar": config["hidden_size"] // heads if largest else config["head_dim"],
    }


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


_OWN: dict[str, Callable[[Source, dict[str, Any]], dict[str, Any]]] = {
    "llama": _llama,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2moe,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3moe,
    "phi3": _phi3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "starcoder2": _starcoder2,
    "stablelm": _stablelm,
    "nemotron": _nemotron,
    "gpt2": _gpt2,
}
