"""A decoder-only transformer as data: the Python face of native/include/deploykit/model.h, field by field.

Made from a checkpoint's config alone and without numpy, so that the planner can ask what a model needs; only
`Rope.table` computes angles, when an engine is really loaded.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from deploykit.engine.native.rope import Floats


class NormKind(enum.Enum):
    RMS = "rms"
    LAYER = "layer"


class Activation(enum.Enum):
    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


class QkNorm(enum.Enum):
    """Normalization of Q and K before the rotation."""

    NONE = "none"
    HEAD = "head"  # over each head
    FULL = "full"  # over all heads of the projection together


class Norm(msgspec.Struct, frozen=True, kw_only=True):
    kind: NormKind = NormKind.RMS
    eps: float = 1e-5
    weight_offset: float = 0.0  # 1 where the checkpoint stores weight - 1


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary embedding as a config describes it; the fields are those of transformers' rope parameters."""

    kind: str = "default"  # default | linear | dynamic | llama3 | yarn | longrope
    theta: float
    dims: int  # leading dimensions of a head that rotate; even
    interleaved: bool = False  # pairs (2i, 2i + 1) instead of (i, i + dims / 2)
    max_positions: int
    original_positions: int
    factor: float | None = None
    attention_factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    def table(self, session_len: int) -> tuple[Floats, float]:
        """(inverse frequencies float32[dims / 2], attention factor) for sessions of `session_len` tokens."""
        from deploykit.engine.native.rope import table

        return table(self, session_len)


class AttentionSpec(msgspec.Struct, frozen=True, kw_only=True):
    heads: int
    kv_heads: int
    head_dim: int
    scale: float  # of q . k
    rope: int = 0  # index into ModelDescription.ropes; -1 = no rotation
    window: int = 0  # a query sees itself and window - 1 tokens before it; 0 = all
    softcap: float = 0.0  # 0 = off
    qk_norm: QkNorm = QkNorm.NONE
    qkv_bias: bool = False
    o_bias: bool = False
    sinks: bool = False
    logn_trained_len: int = 0  # 0 = off


class MoeSpec(msgspec.Struct, frozen=True, kw_only=True):
    experts: int = 0  # 0 = a dense MLP
    top_k: int = 0
    normalize: bool = False
    sigmoid: bool = False
    softmax_after_topk: bool = False


class MlpSpec(msgspec.Struct, frozen=True, kw_only=True):
    intermediate: int  # of one expert where there are experts
    activation: Activation = Activation.SILU
    gated: bool = True
    bias: bool = False
    moe: MoeSpec = MoeSpec()


class LayerSpec(msgspec.Struct, frozen=True, kw_only=True):
    attention: AttentionSpec
    mlp: MlpSpec
    attn_norm: bool = True
    attn_post_norm: bool = False
    mlp_norm: bool = True
    mlp_post_norm: bool = False
    residual_multiplier: float = 1.0


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    hidden: int
    vocab: int
    norm: Norm
    norm_bias: bool = False
    ropes: tuple[Rope, ...]
    layers: tuple[LayerSpec, ...]
    embedding_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    logits_softcap: float = 0.0
    tied: bool = False
    head_bias: bool = False

    def for_binding(self, session_len: int) -> dict[str, Any]:
        """What the library's binding takes: plain dicts with model.h's names, the rope tables computed."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["ropes"] = []
        for rope in self.ropes:
            inv_freq, attention_factor = rope.table(session_len)
            plain["ropes"].append(
                {
                    "inv_freq": inv_freq.tolist(),
                    "attention_factor": attention_factor,
                    "interleaved": rope.interleaved,
                }
            )
        return plain
