"""Which kind of attention a checkpoint has: kinds whose memory no engine keeps are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts

# Kinds of layers in `layer_types` that keep keys and values of whole heads, and their like under other keys.
_KEYS_AND_VALUES = frozenset({"full_attention", "sliding_attention", "attention"})
_LINEAR = "linear attention keeps a state instead of keys and values"
_STATE = "state-space layers keep a state instead of keys and values"
_RECURRENT = "recurrent layers keep a state instead of keys and values"
_CROSS = "cross-attention keeps an encoder's keys and values"
_COMPRESSED = "compressed attention keeps one key for several tokens"
_CHUNKED = "chunked-local attention keeps the keys and values of a chunk alone"
_KINDS = {
    "linear_attention": _LINEAR,
    "lightning": _LINEAR,
    "chunked_attention": _CHUNKED,
    "compressed_sparse_attention": _COMPRESSED,
    "heavily_compressed_attention": _COMPRESSED,
    "mamba": _STATE,
    "mamba2": _STATE,
    "recurrent": _RECURRENT,
    "conv": "convolution layers keep their last inputs instead of keys and values",
}
_LAYER_LISTS = ("layer_types", "layers_block_type", "block_types", "_block_types")
# Keys of config.json that only models of a kind have.
_SIGNS = (
    (("linear_num_key_heads", "linear_attn_config", "attn_type_list"), _LINEAR),
    (("mamba_d_state", "ssm_state_size", "ssm_cfg", "hybrid_override_pattern"), _STATE),
    (("attention_chunk_size",), _CHUNKED),
    (("compress_ratios", "compress_rates"), _COMPRESSED),
    (("lru_width",), _RECURRENT),
    (("cross_attention_layers", "is_encoder_decoder"), _CROSS),
)
_MODEL_TYPES = {
    "mamba": _STATE,
    "mamba2": _STATE,
    "falcon_mamba": _STATE,
    "rwkv": _RECURRENT,
    "rwkv6": _RECURRENT,
}


def unsupported_attention(facts: Facts) -> str | None:
    """The kind of attention that no engine of this version runs, with the key that says so; None for full,
    grouped-query and sliding-window attention, whose keys and values stand in memory as they are."""
    config = facts.config
    if config.get("kv_lora_rank"):
        return _words("latent attention (MLA) keeps one compressed vector a token", "kv_lora_rank")
    for key in _LAYER_LISTS:
        kinds = config.get(key)
        for kind in kinds if isinstance(kinds, list | tuple) else ():
            if kind not in _KEYS_AND_VALUES:
                return _words(_KINDS.get(str(kind), f"layers of an unknown kind, {kind!r}"), key)
    for keys, words in _SIGNS:
        if found := next((key for key in keys if config.get(key)), None):
            return _words(words, found)
    if facts.model_type in _MODEL_TYPES:
        return _words(_MODEL_TYPES[facts.model_type], "model_type")
    return None


def _words(words: str, key: str) -> str:
    return f"{words} (config.json: {key}), and no engine of this version runs that"
