"""Tiny random models of transformers written as GGUF files, the way ggml's own converter writes each architecture.

Names come from the `gguf` package's table (ggml's own), values are changed here as the converter changes them, so
that a reader that gives back the model's state has undone all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from gguf_writer import GgufTensorSpec, write_gguf
from transformers import AutoConfig, PreTrainedModel

VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD = 160, 128, 96, 3, 4, 2, 32
CONTEXT = 256
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Model:
    gguf_arch: str
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)  # transformers' keys beside the common ones
    metadata: dict[str, Any] = field(
        default_factory=dict
    )  # the file's keys beside the common ones, without arch
    change: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, value: value  # by ggml's name
    tied: bool = False
    layer_norm: bool = False
    split: Callable[[State], State] = lambda state: state  # what the converter makes of the names
    mxfp4: bool = False  # the experts


def pairs(name: str, value: torch.Tensor) -> torch.Tensor:
    """Q and K for the rotation of neighbouring pairs."""
    if ".attn_q." not in name and ".attn_k." not in name:
        return value
    heads = HEADS if ".attn_q." in name else KV_HEADS
    return value.view(heads, 2, HEAD // 2, -1).transpose(1, 2).reshape(value.shape)


def plus_one(name: str, value: torch.Tensor) -> torch.Tensor:
    return value + 1 if name.endswith("norm.weight") else value


def transposed(name: str, value: torch.Tensor) -> torch.Tensor:
    linear = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
    return value.T.contiguous() if name.endswith(linear) else value


def shared_gate(name: str, value: torch.Tensor) -> torch.Tensor:
    return value[0] if "ffn_gate_inp_shexp" in name else value


def gpt_oss(state: State) -> State:
    """Gate and up apart, experts' matrices as linear layers hold them."""
    out: State = {}
    for name, value in state.items():
        stem, _, leaf = name.rpartition(".")
        bias = leaf.endswith("_bias")
        module, end = leaf.removesuffix("_bias"), "bias" if bias else "weight"
        if leaf == "sinks":
            out[f"{name}.weight"] = value
        elif module == "gate_up_proj":
            for first, half in enumerate(("gate_proj", "up_proj")):
                part = value[..., first::2]
                out[f"{stem}.{half}.{end}"] = part if bias else part.mT
        elif module == "down_proj":
            out[f"{stem}.{module}.{end}"] = value if bias else value.mT
        else:
            out[name] = value
    return out


def minimax_m2(state: State) -> State:
    return {k.replace("correction_bias", "correction.bias"): v for k, v in state.items()}


_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_MOE_KEYS = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
_HEAD_KEYS = {"attention.key_length": HEAD, "attention.value_length": HEAD}
LONG, SHORT = [1.0 + i / 3 for i in range(HEAD // 2)], [1.0 + i / 64 for i in range(HEAD // 2)]
_WINDOWS = {"sliding_window": 9, "query_pre_attn_scalar": HEAD}

_YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "truncate": False,
}
_GPT_OSS = Model(
    "gpt-oss",
    "gpt_oss",
    {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9, "rope_parameters": _YARN},
    {
        **_HEAD_KEYS,
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_feed_forward_length": INNER,
        "attention.sliding_window": 9,
        "rope.freq_base": 150000.0,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 64,
    },
    split=gpt_oss,
)

MODELS: dict[str, Model] = {
    "llama": Model("llama", "llama", change=pairs),
    "llama-tied-bias": Model(
        "llama", "llama", {"attention_bias": True, "mlp_bias": True}, change=pairs, tied=True
    ),
    "mixtral": Model(
        "llama",
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": _ROPE},
        {"expert_count": 4, "expert_used_count": 2},
        pairs,
    ),
    "qwen2": Model("qwen2", "qwen2"),
    "qwen2moe": Model(
        "qwen2moe",
        "qwen2_moe",
        {**_MOE, "shared_expert_intermediate_size": 48, "norm_topk_prob": False},
        {**_MOE_KEYS, "expert_shared_feed_forward_length": 48},
        shared_gate,
    ),
    "qwen3": Model("qwen3", "qwen3", metadata=_HEAD_KEYS, tied=True),
    "qwen3moe": Model("qwen3moe", "qwen3_moe", {**_MOE, "norm_topk_prob": True}, {**_MOE_KEYS, **_HEAD_KEYS}),
    "gpt-oss": _GPT_OSS,
    "gpt-oss-mxfp4": replace(_GPT_OSS, mxfp4=True),
    "minimax-m2": Model(
        "minimax-m2",
        "minimax_m2",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5000000.0,
                "partial_rotary_factor": 0.5,
            },
        },
        {
            **_HEAD_KEYS,
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": INNER,
            "expert_gating_func": 2,
            "rope.freq_base": 5000000.0,
            "rope.dimension_count": HEAD // 2,
        },
        split=minimax_m2,
    ),
    "phi3": Model("phi3", "phi3", {"sliding_window": 40}, {"attention.sliding_window": 40}),
    "phi3-longrope": Model(
        "phi3",
        "phi3",
        {
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "long_factor": LONG,
                "short_factor": SHORT,
                "original_max_position_embeddings": 64,
            },
        },
        {"rope.scaling.original_context_length": 64},
    ),
    "gemma": Model("gemma", "gemma", metadata=_HEAD_KEYS, change=plus_one, tied=True),
    "gemma2": Model(
        "gemma2",
        "gemma2",
        {**_WINDOWS, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0},
        {
            **_HEAD_KEYS,
            "attention.sliding_window": 9,
            "attn_logit_softcapping": 20.0,
            "final_logit_softcapping": 10.0,
        },
        plus_one,
        tied=True,
    ),
    "gemma3": Model(
        "gemma3",
        "gemma3_text",
        {
            **_WINDOWS,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        {
            **_HEAD_KEYS,
            "attention.sliding_window": 9,
            "attention.sliding_window_pattern": 3,
            "rope.freq_base": 1000000.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        plus_one,
        tied=True,
    ),
    "starcoder2": Model("starcoder2", "starcoder2", tied=True, layer_norm=True),
    "stablelm": Model(
        "stablelm",
        "stablelm",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        {"rope.dimension_count": HEAD // 2},
        layer_norm=True,
    ),
    "stablelm-parallel": Model(
        "stablelm",
        "stablelm",
        {
            "use_parallel_residual": True,
            "use_qkv_bias": True,
            "qk_layernorm": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        },
        {"rope.dimension_count": HEAD // 4},
        layer_norm=True,
    ),
    "nemotron": Model(
        "nemotron",
        "nemotron",
        {
            "hidden_act": "relu2",
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
        {"rope.dimension_count": HEAD // 2},
        plus_one,
        layer_norm=True,
    ),
    "gpt2": Model(
        "gpt2",
        "gpt2",
        {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT, "n_inner": INNER},
        {"attention.head_count_kv": HEADS},
        transposed,
        tied=True,
        layer_norm=True,
    ),
}


def build(name: str, path: Path) -> PreTrainedModel:
    """Writes the file; the model that it was made from."""
    spec = MODELS[name]
    common: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "max_position_embeddings": CONTEXT,
        **{key: 1e-5 for key in ("rms_norm_eps", "norm_epsilon", "layer_norm_eps", "norm_eps")},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": spec.tied,
        "initializer_range": 0.4,
        "attn_implementation": "eager",
    }
    config = AutoConfig.for_model(spec.model_type, **{**common, **spec.config})
    torch.manual_seed(sum(name.encode()))
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, value in model.state_dict(keep_vars=True).items():
            if value.ndim == 1 or key.endswith("_bias"):  # away from 0 and 1, and such that 1 more is exact
                value.copy_((torch.randn_like(value) * 0.2 + ("norm" in key or "ln_" in key)).bfloat16())
            elif spec.mxfp4 and ".experts." in key:  # numbers that the type can hold
                packed = gguf.quantize(value.mT.contiguous().numpy(), gguf.GGMLQuantizationType.MXFP4)
                exact = gguf.dequantize(packed, gguf.GGMLQuantizationType.MXFP4)
                value.copy_(torch.from_numpy(exact).mT)
    write_gguf(path, _metadata(name, spec), _tensors(spec, spec.split(saved_state(model)), name))
    return model


def saved_state(model: PreTrainedModel) -> State:
    """The tensors as a checkpoint holds them: experts one by one."""
    from transformers.core_model_loading import revert_weight_conversion

    state = revert_weight_conversion(model, model.state_dict())
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return {k: v.contiguous() for k, v in state.items() if not k.endswith((".attn.bias", "masked_bias"))}


def _metadata(name: str, spec: Model) -> dict[str, Any]:
    epsilon = "layer_norm_epsilon" if spec.layer_norm else "layer_norm_rms_epsilon"
    own = {
        "block_count": LAYERS,
        "context_length": CONTEXT,
        "embedding_length": HIDDEN,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        f"attention.{epsilon}": 1e-5,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": HEAD,
        **spec.metadata,
    }
    return {
        "general.architecture": spec.gguf_arch,
        "general.name": name,
        **{f"{spec.gguf_arch}.{key}": value for key, value in own.items()},
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(VOCAB)],
    }


def _tensors(spec: Model, state: State, name: str) -> list[GgufTensorSpec]:
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == spec.gguf_arch)
    table = gguf.get_tensor_name_map(arch, LAYERS)
    out: list[GgufTensorSpec] = []
    stacks: dict[str, list[torch.Tensor]] = {}
    for hf_name, value in state.items():
        stem, leaf = hf_name.rsplit(".", 1)
        stem = re.sub(r"_layernorm\.norms\.\d+", "_layernorm", stem)
        if _EXPERT.search(hf_name) or stem != hf_name.rsplit(".", 1)[0]:
            stacks.setdefault(f"{_EXPERT.sub('.experts.', stem + '.').rstrip('.')}|{leaf}", []).append(value)
            continue
        out.append(_spec(spec, table, stem, leaf, value))
    for key, values in stacks.items():
        stem, leaf = key.split("|")
        out.append(_spec(spec, table, stem, leaf, torch.stack(values)))
    if name == "phi3-longrope":
        for which, factors in (("long", LONG), ("short", SHORT)):
            data = np.array(factors, "<f4").tobytes()
            out.append((f"rope_factors_{which}.weight", "F32", (len(factors),), data))
    return out


def _spec(spec: Model, table: Any, stem: str, leaf: str, value: torch.Tensor) -> GgufTensorSpec:
    found = table.get_name(stem)
    assert found is not None, stem
    changed = spec.change(f"{found}.{leaf}", value).contiguous()
    if spec.mxfp4 and found.endswith("_exps") and leaf == "weight":
        packed = gguf.quantize(changed.numpy(), gguf.GGMLQuantizationType.MXFP4)
        return f"{found}.{leaf}", "MXFP4", tuple(changed.shape), packed.tobytes()
    return f"{found}.{leaf}", "F32", tuple(changed.shape), changed.numpy().astype("<f4").tobytes()
