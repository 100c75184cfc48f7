"""What makes one architecture differ from Llama: a table entry each, and where its tensors lie.

A key of config.json stands as text where the family reads a value from it; tensor names are Hugging Face's, `{i}` the
layer and `{e}` the expert. `describe.py` turns an entry and a config into a description, `names.py` into tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from deploykit.engine.native.description import Activation, QkNorm

_LAYER = "model.layers.{i}."
LLAMA_NAMES: dict[str, str] = {
    "embed": "model.embed_tokens",
    "head": "lm_head",
    "final_norm": "model.norm",
    "attn_norm": _LAYER + "input_layernorm",
    "mlp_norm": _LAYER + "post_attention_layernorm",
    "q": _LAYER + "self_attn.q_proj",
    "k": _LAYER + "self_attn.k_proj",
    "v": _LAYER + "self_attn.v_proj",
    "o": _LAYER + "self_attn.o_proj",
    "q_norm": _LAYER + "self_attn.q_norm",
    "k_norm": _LAYER + "self_attn.k_norm",
    "gate": _LAYER + "mlp.gate_proj",
    "up": _LAYER + "mlp.up_proj",
    "down": _LAYER + "mlp.down_proj",
    "router": _LAYER + "mlp.gate",
    "expert_gate": _LAYER + "mlp.experts.{e}.gate_proj",
    "expert_up": _LAYER + "mlp.experts.{e}.up_proj",
    "expert_down": _LAYER + "mlp.experts.{e}.down_proj",
}

# Modules that hold several roles' rows, by layout:
#   qkv          all of Q, then K, then V
#   grouped_qkv  for each KV head: the Q heads that share it, then K, then V
#   gate_up      all of gate, then up
Layout = Literal["qkv", "grouped_qkv", "gate_up"]


@dataclass(frozen=True)
class Fused:
    module: str
    layout: Layout


@dataclass(frozen=True)
class Moe:
    experts: tuple[str, ...] = ("num_experts", "num_local_experts")
    intermediate: str = "intermediate_size"
    normalize: bool | str = True
    default_top_k: int = 2
    # experts stacked into one tensor a layer, as transformers may save them: [experts, rows, columns]
    stacked_gate_up: str = _LAYER + "mlp.experts.gate_up_proj"
    stacked_down: str = _LAYER + "mlp.experts.down_proj"


@dataclass(frozen=True)
class Family:
    """bool | str: the value, or the config key that says it (false where the config is silent)."""

    names: dict[str, str] = field(default_factory=lambda: LLAMA_NAMES)
    fused: tuple[Fused, ...] = ()
    theta: float = 10000.0
    partial_rope: float | None = None  # default share of a head; None = all of it
    interleaved_rope: bool = False
    rope_aliases: dict[str, str] = field(default_factory=dict)
    rope_per_kind: bool = False  # a rope for each of `layer_types`
    eps: float = 1e-6
    norm_offset: float = 0.0
    activation_key: str = "hidden_act"
    activation: str = "silu"
    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    bias_default: bool = False  # of the keys above
    qk_norm: QkNorm = QkNorm.NONE
    pre_norms: bool = True
    post_norms: bool = False
    # none: every layer sees everything; all: sliding_window in every layer; switched: the same where
    # use_sliding_window says so; kinds: layer_types, or the pattern's default
    window: Literal["none", "all", "switched", "kinds"] = "none"
    window_default: int | None = None  # where the config has no such key
    kinds: Literal["", "upper", "alternate", "sixth"] = ""  # layer_types where the config has none
    embedding_scaled: bool = False  # by sqrt(hidden)
    scale_key: str | None = None  # attention's scale: this value ** -0.5
    granite: bool = False  # four multipliers of its own
    softcaps: bool = False
    nope: bool = False  # some layers don't rotate
    moe: Moe | None = None
    tied_default: bool = False


def _names(**changes: str) -> dict[str, str]:
    return {**LLAMA_NAMES, **{role: _LAYER + name for role, name in changes.items()}}


_FOUR_NORMS = _names(
    attn_norm="input_layernorm",
    attn_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)
_LLAMA = Family(qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias")
_QWEN2 = Family(qkv_bias=True, window="kinds", kinds="upper")
_QWEN3 = replace(_QWEN2, qkv_bias="attention_bias", o_bias="attention_bias", qk_norm=QkNorm.HEAD)
_GEMMA = Family(
    norm_offset=1.0,
    activation="gelu_pytorch_tanh",
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    embedding_scaled=True,
    tied_default=True,
)
_GLM = Family(
    fused=(Fused(_LAYER + "mlp.gate_up_proj", "gate_up"),),
    partial_rope=0.5,
    interleaved_rope=True,
    eps=1.5625e-7,
    qkv_bias="attention_bias",
    bias_default=True,
)

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": Family(window="all", window_default=4096),
    "MixtralForCausalLM": Family(
        names=_names(
            router="block_sparse_moe.gate",
            expert_gate="block_sparse_moe.experts.{e}.w1",
            expert_up="block_sparse_moe.experts.{e}.w3",
            expert_down="block_sparse_moe.experts.{e}.w2",
        ),
        theta=1e6,
        eps=1e-5,
        window="all",
        moe=Moe(),
    ),
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _QWEN3,
    "Qwen3MoeForCausalLM": replace(
        _QWEN3,
        window="switched",
        moe=Moe(intermediate="moe_intermediate_size", normalize="norm_topk_prob", default_top_k=8),
    ),
    "InternLM2ForCausalLM": Family(
        names={
            **_names(
                attn_norm="attention_norm",
                mlp_norm="ffn_norm",
                o="attention.wo",
                gate="feed_forward.w1",
                up="feed_forward.w3",
                down="feed_forward.w2",
            ),
            "embed": "model.tok_embeddings",
            "head": "output",
        },
        fused=(Fused(_LAYER + "attention.wqkv", "grouped_qkv"),),
        qkv_bias="bias",
        o_bias="bias",
        bias_default=True,
    ),
    "InternLM3ForCausalLM": Family(qkv_bias="qkv_bias", o_bias="bias", mlp_bias="bias"),
    "Phi3ForCausalLM": Family(
        fused=(
            Fused(_LAYER + "self_attn.qkv_proj", "qkv"),
            Fused(_LAYER + "mlp.gate_up_proj", "gate_up"),
        ),
        partial_rope=1.0,
        rope_aliases={"su": "longrope", "yarn": "longrope"},
        eps=1e-5,
        window="all",
    ),
    "GemmaForCausalLM": _GEMMA,
    "Gemma2ForCausalLM": replace(
        _GEMMA,
        names=_FOUR_NORMS,
        activation_key="hidden_activation",
        post_norms=True,
        window="kinds",
        window_default=4096,
        kinds="alternate",
        scale_key="query_pre_attn_scalar",
        softcaps=True,
    ),
    "Gemma3ForCausalLM": replace(
        _GEMMA,
        names=_FOUR_NORMS,
        activation_key="hidden_activation",
        post_norms=True,
        qk_norm=QkNorm.HEAD,
        window="kinds",
        window_default=4096,
        kinds="sixth",
        rope_per_kind=True,
        scale_key="query_pre_attn_scalar",
        softcaps=True,
    ),
    "GlmForCausalLM": _GLM,
    "Glm4ForCausalLM": replace(
        _GLM,
        names=_names(
            attn_post_norm="post_self_attn_layernorm",
            mlp_post_norm="post_mlp_layernorm",
        ),
        post_norms=True,
    ),
    "GraniteForCausalLM": replace(_LLAMA, granite=True),
    "Olmo2ForCausalLM": replace(
        _LLAMA,
        names=_names(
            attn_post_norm="post_attention_layernorm",
            mlp_post_norm="post_feedforward_layernorm",
        ),
        eps=1e-5,
        mlp_bias=False,
        qk_norm=QkNorm.FULL,
        pre_norms=False,
        post_norms=True,
    ),
    "SmolLM3ForCausalLM": replace(_LLAMA, theta=2e6, nope=True, tied_default=True),
}

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "relu": Activation.RELU,
}
