"""Kinds of layers by what they keep of a sequence, read from a checkpoint's config.json; nothing of a model is run.

The kinds serve the formulas of `plan/formulae.py`. An engine that runs a model states its own costs instead.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from deploykit.plan.states import STATES, first

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts

Config = dict[str, Any]
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")


class Layers(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that keep the same. A layer with attention beside a state counts in both rows."""

    kind: str  # full | latent | window | chunked | cross | state | none
    count: int = 1
    kv_heads: int = 0
    key_dim: int = 0  # of a head; latent: the whole vector, its rotary part included
    value_dim: int = 0  # of a head; latent: 0, values are read from the same vector
    span: int = 0  # window: tokens seen, the own one included; chunked: of a chunk; cross: of the encoder
    index_bytes: int = 0  # a token's, beside keys and values: the keys that choose what is attended to
    conv: int = 0  # state: numbers in the dtype of activations
    recurrent: int = 0  # state: numbers in float32


class UnknownKindError(Exception):
    """A kind of layer whose memory no formula here covers, or one without the sizes that it needs."""


def text_config(config: Config) -> Config:
    """The part of a config.json that describes the language model."""
    if "num_hidden_layers" not in config:
        for part in _TEXT_PARTS:
            if isinstance(config.get(part), dict):
                return text_config(dict(config[part]))  # the thinker of Qwen-Omni holds one more
    return config


def layers_of(facts: Facts) -> tuple[Layers, ...]:
    """The layers by kind, most frequent first. Raises UnknownKindError."""
    config = text_config(facts.config)
    config = {"hidden_size": facts.hidden_size, "num_attention_heads": facts.num_heads, **config}
    try:
        found = Counter(
            _chosen_by(_layer(kind, facts, config), index, config)
            for index, kinds in enumerate(_kinds(facts, config))
            for kind in (("none",) if index >= _own_kv(facts, config) else kinds.split("+"))
        )
    except KeyError as error:
        raise UnknownKindError(f"config.json has no {error.args[0]}") from None
    except (TypeError, ValueError, ArithmeticError, IndexError):
        raise UnknownKindError("config.json describes its layers in a way that isn't known") from None
    return tuple(msgspec.structs.replace(layer, count=count) for layer, count in found.most_common())


# ---------------------------------------------------------------- which kind

_NAMES = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "window",
    "local_attention": "window",
    "chunked_attention": "chunked",
    "deepseek_sparse_attention": "full",  # of latent vectors, chosen by keys of an indexer
    "linear_attention": "linear",
    "lightning": "linear",
    "mamba": "mamba",
    "mamba2": "mamba",
    "recurrent": "recurrent",
    "conv": "conv",
    "moe": "none",
    "mlp": "none",
    "hybrid": "full+mamba",  # Zamba: the shared attention goes before a state-space layer
}
_LETTERS = {"M": "mamba", "*": "full", "-": "none", "E": "none"}  # Nemotron-H
_ENCODERS = frozenset({"bert", "roberta", "xlm-roberta", "modernbert", "distilbert", "albert", "electra"})
_WHOLE = {"mamba": "mamba", "mamba2": "mamba", "falcon_mamba": "mamba", "rwkv": "rwkv", "rwkv6": "rwkv6"}


def _kinds(facts: Facts, config: Config) -> list[str]:
    """A kind a layer; "a+b" has both."""
    count, model = facts.num_layers, config.get("model_type") or facts.model_type
    if model in _ENCODERS:
        return ["none"] * count
    if config.get("is_encoder_decoder"):
        return ["full+cross"] * first(config, "decoder_layers", "num_decoder_layers", default=count)
    if model in _WHOLE:
        return [_WHOLE[model]] * count
    if model == "falcon_h1":
        return ["full+mamba"] * count
    if config.get("compress_ratios"):  # DeepSeek-V4: a window, and one key for so many tokens before it
        raise UnknownKindError("config.json: compress_ratios has layers that keep one key for several tokens")
    listed = _listed(config, count) or _by_number(config, count) or _by_rule(facts, config, model)
    crossing = config.get("cross_attention_layers")
    if isinstance(crossing, list):
        listed = ["cross" if i in crossing else kind for i, kind in enumerate(listed)]
    return listed


def _listed(config: Config, count: int) -> list[str] | None:
    """Where a name a layer is written down, or a pattern that repeats."""
    for key in ("layer_types", "layers_block_type", "block_types", "_block_types"):
        names = config.get(key)
        if isinstance(names, list | tuple) and names:
            if unknown := next((name for name in names if name not in _NAMES), None):
                raise UnknownKindError(f"config.json: {key} has layers of an unknown kind, {unknown!r}")
            kinds = [_NAMES[names[i % len(names)]] for i in range(count)]
            # RecurrentGemma calls its windows plainly "attention"
            near = config.get("attention_window_size")
            return ["window" if near and kind == "full" else kind for kind in kinds]
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        return [_LETTERS[letter] for letter in pattern if letter in _LETTERS]
    return None


def _by_number(config: Config, count: int) -> list[str] | None:
    """Where the numbers of some layers are written down, or a flag a layer."""
    delta = config.get("linear_attn_config")
    if isinstance(delta, dict):  # Kimi counts from one
        full = delta.get("full_attn_layers") or ()
        return ["full" if i + 1 in full else "linear" for i in range(count)]
    flags = config.get("attn_type_list")
    if isinstance(flags, list):  # MiniMax: 1 is softmax attention
        return ["full" if flag else "linear" for flag in flags]
    indices = config.get("attn_layer_indices")
    if isinstance(indices, list):  # Bamba
        return ["full" if i in indices else "mamba" for i in range(count)]
    flags = config.get("hybrid_layer_pattern")
    if isinstance(flags, list):  # MiMo: 1 is a window
        return ["window" if flag else "full" for flag in flags]
    return None


def _by_rule(facts: Facts, config: Config, model: str) -> list[str]:
    """Where one layer in so many is of another kind."""
    count, window = facts.num_layers, facts.sliding_window
    if period := config.get("attn_layer_period"):  # Jamba
        offset = config.get("attn_layer_offset") or 0
        return ["full" if i % period == offset else "mamba" for i in range(count)]
    if period := config.get("full_attention_interval"):  # Qwen3-Next
        return ["linear" if (i + 1) % period else "full" for i in range(count)]
    if config.get("attention_chunk_size"):  # Llama 4: layers without rotary embedding see everything
        period = config.get("no_rope_layer_interval") or 4
        flags = config.get("no_rope_layers") or [(i + 1) % period for i in range(count)]
        return ["chunked" if flag else "full" for flag in flags]
    if not window:
        return ["full"] * count
    if model == "gemma2":
        return ["full" if i % 2 else "window" for i in range(count)]
    if model == "gpt_oss":
        return ["full" if i % 2 else "window" for i in range(count)]
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern")
    if pattern is None and model.startswith("gemma3"):
        pattern = 6
    if pattern is None and model == "cohere2":
        pattern = 4
    if isinstance(pattern, str):  # EXAONE 4: LLLG
        return ["full" if pattern[i % len(pattern)] == "G" else "window" for i in range(count)]
    if isinstance(pattern, int) and pattern > 0:
        return ["window" if (i + 1) % pattern else "full" for i in range(count)]
    if config.get("use_sliding_window") and isinstance(config.get("max_window_layers"), int):  # Qwen2
        return ["full" if i < config["max_window_layers"] else "window" for i in range(count)]
    return ["window"] * count


def _own_kv(facts: Facts, config: Config) -> int:
    """Layers from here on read an earlier layer's keys and values (Gemma 3n)."""
    shared = config.get("num_kv_shared_layers")
    return facts.num_layers - shared if isinstance(shared, int) and shared > 0 else 1 << 30


# ---------------------------------------------------------------- how large


def _layer(kind: str, facts: Facts, config: Config) -> Layers:
    if kind == "none":
        return Layers(kind="none")
    if kind in STATES:
        conv, recurrent = STATES[kind](config)
        return Layers(kind="state", conv=conv, recurrent=recurrent)
    if config.get("kv_lora_rank") and kind == "full":
        width = first(config, "kv_lora_rank") + first(config, "qk_rope_head_dim", "qk_rope_dim")
        # a key of 8 bits and a float32 scale for each 128 of it
        index = config.get("index_head_dim") if config.get("index_topk") else None
        own = index + -(-index // 128) * 4 if isinstance(index, int) else 0
        return Layers(kind="latent", key_dim=width, index_bytes=own)
    heads, key = facts.num_kv_heads, first(config, "kv_channels", default=facts.head_dim)
    value = first(config, "v_head_dim", default=key)
    if kind == "full":
        heads = first(config, "num_global_key_value_heads", default=heads)
        if wide := config.get("global_head_dim"):
            key = value = wide
        return Layers(kind="full", kv_heads=heads, key_dim=key, value_dim=value)
    if kind == "cross":
        return Layers(
            kind="cross", kv_heads=heads, key_dim=key, value_dim=value, span=_encoder(facts, config)
        )
    if kind == "chunked":
        span = first(config, "attention_chunk_size")
        return Layers(kind="chunked", kv_heads=heads, key_dim=key, value_dim=value, span=span)
    return Layers(
        kind="window",
        kv_heads=first(config, "swa_num_key_value_heads", default=heads),
        key_dim=first(config, "swa_head_dim", default=key),
        value_dim=first(config, "swa_v_head_dim", default=value),
        span=facts.sliding_window or first(config, "sliding_window", "attention_window_size"),
    )


def _chosen_by(layer: Layers, index: int, config: Config) -> Layers:
    """A layer that attends to what an earlier one chose keeps no keys to choose by (GLM-5.2)."""
    types = config.get("indexer_types")
    shared = isinstance(types, list) and index < len(types) and types[index] == "shared"
    return msgspec.structs.replace(layer, index_bytes=0) if shared else layer


def _encoder(facts: Facts, config: Config) -> int:
    """Positions of the encoder: of an image in all its tiles, of a sound, or of the longest text."""
    vision = facts.config.get("vision_config")
    if isinstance(vision, dict) and "cross_attention_layers" in config:  # Llama 3.2 Vision
        side = first(vision, "image_size") // first(vision, "patch_size")
        return (side * side + 1) * first(vision, "max_num_tiles", default=1)
    return first(config, "max_source_positions", default=facts.max_position_embeddings)
