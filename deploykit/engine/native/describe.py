"""`describe`: a checkpoint's config as a ModelDescription, or the reason why it can't be one."""

from __future__ import annotations

from deploykit.checkpoint.facts import Facts
from deploykit.checkpoint.gguf_families import PAIRS, PLUS_ONE
from deploykit.engine.native.config import Config
from deploykit.engine.native.description import (
    AttentionSpec,
    LayerSpec,
    MlpSpec,
    ModelDescription,
    MoeSpec,
    Norm,
    Rope,
)
from deploykit.engine.native.errors import UnsupportedError
from deploykit.engine.native.families import ACTIVATIONS, FAMILIES, Family
from deploykit.engine.native.ropes import read_rope

_FULL, _SLIDING = "full_attention", "sliding_attention"


def family_of(facts: Facts) -> Family:
    """The table entry of the architecture. Raises UnsupportedError."""
    family = FAMILIES.get(facts.architecture)
    if family is None:
        raise UnsupportedError(f"{facts.architecture} is not among the native engine's architectures")
    return family


def describe(facts: Facts) -> ModelDescription:
    """The model's description, from config and tensor names alone.

    Raises UnsupportedError for what the library can't express and CheckpointError for a wrong config.
    """
    family = family_of(facts)
    config = Config(facts)
    if config.flag("use_bidirectional_attention", False):
        raise UnsupportedError(
            "attention that is not causal (use_bidirectional_attention) is not implemented"
        )
    if facts.num_heads % facts.num_kv_heads:
        raise config.bad("num_key_value_heads", f"a divisor of {facts.num_heads} heads")
    kinds = _layer_kinds(config, family)
    ropes, rope_index = _ropes(config, family, kinds)
    layers = tuple(_layer(config, family, i, kinds[i], rope_index[kinds[i]]) for i in range(facts.num_layers))
    multiplier = facts.hidden_size**0.5 if family.embedding_scaled else 1.0
    return ModelDescription(
        hidden=facts.hidden_size,
        vocab=facts.vocab_size,
        norm=Norm(eps=config.number("rms_norm_eps", family.eps), weight_offset=_norm_offset(facts, family)),
        ropes=ropes,
        layers=layers,
        embedding_multiplier=config.number("embedding_multiplier", 1.0) if family.granite else multiplier,
        logits_multiplier=1 / config.number("logits_scaling", 1.0) if family.granite else 1.0,
        logits_softcap=_softcap(config, family, "final_logit_softcapping", facts),
        tied=_tied(config, family),
    )


def _norm_offset(facts: Facts, family: Family) -> float:
    """What is added to a norm's weights; some GGUF files bring it added already."""
    return family.norm_offset - 1.0 if facts.stored_as(PLUS_ONE) else family.norm_offset


# ---------------------------------------------------------------- layers


def _layer(config: Config, family: Family, index: int, kind: str, rope: int) -> LayerSpec:
    return LayerSpec(
        attention=_attention(config, family, index, kind, rope),
        mlp=_mlp(config, family, index),
        attn_norm=family.pre_norms,
        attn_post_norm=family.post_norms,
        mlp_norm=family.pre_norms,
        mlp_post_norm=family.post_norms,
        residual_multiplier=config.number("residual_multiplier", 1.0) if family.granite else 1.0,
    )


def _attention(config: Config, family: Family, index: int, kind: str, rope: int) -> AttentionSpec:
    facts = config.facts
    if family.granite:
        scale = config.number("attention_multiplier", 1.0)
    else:
        size = config.number(family.scale_key, 256) if family.scale_key else facts.head_dim
        scale = size**-0.5
    return AttentionSpec(
        heads=facts.num_heads,
        kv_heads=facts.num_kv_heads,
        head_dim=facts.head_dim,
        scale=scale,
        rope=rope if _rotates(config, family, index) else -1,
        window=_window(config, family) if kind == _SLIDING else 0,
        softcap=_softcap(config, family, "attn_logit_softcapping", facts),
        qk_norm=family.qk_norm,
        qkv_bias=_flag(config, family.qkv_bias, family.bias_default),
        o_bias=_flag(config, family.o_bias, family.bias_default),
        logn_trained_len=_logn(config),
    )


def _mlp(config: Config, family: Family, index: int) -> MlpSpec:
    name = config.text(family.activation_key, family.activation)
    if name not in ACTIVATIONS:
        raise UnsupportedError(f"the activation {name!r} is not implemented in the native engine")
    activation, bias = ACTIVATIONS[name], _flag(config, family.mlp_bias, family.bias_default)
    moe = family.moe
    experts = next((config.integer(key) for key in moe.experts if key in config), 0) if moe else 0
    if moe is None or experts == 0 or _dense(config, index):
        return MlpSpec(intermediate=config.facts.intermediate_size, activation=activation, bias=bias)
    top_k = config.integer("num_experts_per_tok", moe.default_top_k, high=experts)
    return MlpSpec(
        intermediate=config.integer(moe.intermediate),
        activation=activation,
        moe=MoeSpec(experts=experts, top_k=top_k, normalize=_flag(config, moe.normalize)),
    )


def _dense(config: Config, index: int) -> bool:
    """Layers of a mixture that have a plain MLP (Qwen3-MoE's two keys)."""
    step = config.integer("decoder_sparse_step", 1)
    return index in (config.items("mlp_only_layers") or ()) or (index + 1) % step != 0


def _flag(config: Config, value: bool | str, default: bool = False) -> bool:
    return config.flag(value, default) if isinstance(value, str) else value


def _softcap(config: Config, family: Family, key: str, facts: Facts) -> float:
    """Gemma's caps; a key that is absent takes Gemma 2's defaults, null is off."""
    if not family.softcaps:
        return 0.0
    default = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}[key]
    if key not in config.values:
        return default if facts.architecture == "Gemma2ForCausalLM" else 0.0
    return config.number(key) if key in config else 0.0


def _logn(config: Config) -> int:
    """Attention that grows with log(position) beyond the trained length, where the config says so."""
    if not config.flag("use_logn_attn", False):
        return 0
    return config.integer("seq_length", config.facts.max_position_embeddings, low=2)


def _tied(config: Config, family: Family) -> bool:
    """Whether the output head is the embedding table: it is where the checkpoint brings no head of its own."""
    stored = f"{family.names['head']}."
    if any(t.name.startswith(stored) for t in config.facts.tensors):
        return False
    return config.flag("tie_word_embeddings", family.tied_default or config.facts.tie_word_embeddings)


# ---------------------------------------------------------------- windows and rotation


def _layer_kinds(config: Config, family: Family) -> list[str]:
    """full_attention or sliding_attention for each layer."""
    count = config.facts.num_layers
    sliding = _window(config, family) > 0
    if family.window != "kinds":
        return [_SLIDING if sliding else _FULL] * count
    kinds = config.items("layer_types")
    if kinds is None:
        kinds = _default_kinds(config, family, count)
    if len(kinds) < count:
        raise config.bad("layer_types", f"a list of {count} kinds")
    strange = next((k for k in kinds if k not in (_FULL, _SLIDING)), None)
    if strange is not None:
        raise UnsupportedError(f"layers of kind {strange!r} are not implemented in the native engine")
    return kinds[:count] if sliding or family.rope_per_kind else [_FULL] * count


def _default_kinds(config: Config, family: Family, count: int) -> list[str]:
    if family.kinds == "upper":
        first = config.integer("max_window_layers", 28, low=0)
        return [_SLIDING if i >= first else _FULL for i in range(count)]
    pattern = 2 if family.kinds == "alternate" else config.integer("sliding_window_pattern", 6)
    return [_SLIDING if (i + 1) % pattern else _FULL for i in range(count)]


def _window(config: Config, family: Family) -> int:
    """Tokens of the sliding window; 0 where there is none."""
    if family.window == "none":
        return 0
    if (family.window == "switched" or family.kinds == "upper") and not config.flag(
        "use_sliding_window", False
    ):
        return 0
    if "sliding_window" not in config:
        return 0 if "sliding_window" in config.values else family.window_default or 0
    return config.integer("sliding_window")


def _rotates(config: Config, family: Family, index: int) -> bool:
    """SmolLM3 leaves some layers unrotated: no_rope_layers[i] is 0 there."""
    if not family.nope:
        return True
    layers = config.items("no_rope_layers")
    if layers is None:
        return (index + 1) % config.integer("no_rope_layer_interval", 4) != 0
    if len(layers) <= index or layers[index] not in (0, 1):
        raise config.bad("no_rope_layers", f"a list of {config.facts.num_layers} times 0 or 1")
    return bool(layers[index])


def _ropes(config: Config, family: Family, kinds: list[str]) -> tuple[tuple[Rope, ...], dict[str, int]]:
    """The ropes, and which one each layer kind takes."""
    # Q and K of some GGUF files stand in the row order that rotates neighbouring pairs.
    interleaved = family.interleaved_rope or config.facts.stored_as(PAIRS)
    found: dict[str, Rope] = {}
    for kind in dict.fromkeys(kinds):
        theta = {_FULL: 1e6, _SLIDING: 1e4}[kind] if family.rope_per_kind else family.theta
        found[kind] = read_rope(
            config,
            head_dim=config.facts.head_dim,
            theta=theta,
            interleaved=interleaved,
            partial=family.partial_rope,
            aliases=family.rope_aliases,
            kind=kind if family.rope_per_kind else None,
        )
    ropes = tuple(dict.fromkeys(found.values()))
    return ropes, {kind: ropes.index(rope) for kind, rope in found.items()}
