"""The config.json that says what a GGUF's metadata says; what it can't say is refused, and nothing is guessed."""

from __future__ import annotations

from typing import Any

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.gguf_own import OWN
from deploykit.checkpoint.gguf_source import Source

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


def make_config(source: Source) -> dict[str, Any]:
    """config.json of the architecture. Raises CheckpointError that names the key or the tensor."""
    _refuse_foreign(source)
    config = _common(source)
    config.update(OWN[source.family.model_type](source, config))
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
    gating = source.family.gating
    if source.integer("expert_gating_func", gating, low=0) != gating:
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
