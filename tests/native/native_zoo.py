"""Tiny random checkpoints of every family that the native engine describes, with transformers' model as reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pytorch_zoo import ZOO, build
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def _rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


_LONG = {
    "short_factor": [1.0 + 0.2 * i for i in range(16)],
    "long_factor": [1.0 + 0.1 * i * i for i in range(16)],
}
# The library's attention takes heads of 32 dimensions and more.
_SIZES = {"hidden_size": 128, "head_dim": 32}
# name -> (name in the pytorch zoo, changes on top)
NATIVE_ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {})
    for name in (
        "llama",
        "llama-tied-bias",
        "llama3-rope",
        "mistral-window",
        "qwen2",
        "qwen3",
        "phi3",
        "gemma",
        "gemma2",
        "gemma3",
        "glm",
        "glm4",
        "granite",
        "olmo2",
        "mixtral",
        "qwen3-moe",
    )
} | {
    "llama-bias": ("llama", {"attention_bias": True}),
    "rope-linear": ("llama", _rope("linear", factor=2.5)),
    "rope-dynamic": ("llama", {**_rope("dynamic", factor=3.0), "max_position_embeddings": 32}),
    "rope-dynamic-short": ("llama", _rope("dynamic", factor=3.0)),
    "rope-yarn": ("llama", _rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    "rope-yarn-mscale": (
        "llama",
        _rope("yarn", factor=4.0, original_max_position_embeddings=64, mscale=1.2, mscale_all_dim=0.8),
    ),
    "phi3-longrope-long": (
        "phi3",
        {**_rope("longrope", **_LONG), "original_max_position_embeddings": 16},
    ),
    "phi3-longrope-short": (
        "phi3",
        {**_rope("longrope", **_LONG), "original_max_position_embeddings": 128},
    ),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3-head-40": ("qwen3", {"head_dim": 40}),
    "qwen3-bias": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "gemma3-scaled": (
        "gemma3",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ),
    "granite-all": (
        "granite",
        {"embedding_multiplier": 3.0, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "smollm3-nope": ("smollm3", {"no_rope_layers": [1, 0, 1]}),
    "mixtral-window": ("mixtral", {"sliding_window": 7}),
    "qwen3-moe-mixed": ("qwen3-moe", {"norm_topk_prob": False, "mlp_only_layers": [1]}),
}


def build_native(name: str, folder: Path) -> PreTrainedModel:
    """The checkpoint in `folder`, float32; transformers' model of it."""
    base, changes = NATIVE_ZOO[name]
    architecture, model_type, own = ZOO[base]
    ZOO[name], before = (architecture, model_type, {**own, **_SIZES, **changes}), ZOO.get(name)
    try:
        model = build(name, folder)
    finally:
        if before is None:
            del ZOO[name]
        else:
            ZOO[name] = before
    model.set_attn_implementation("eager")  # the others leave out the soft cap on the scores
    return model


def pin_rope(model: PreTrainedModel, session_len: int) -> None:
    """The reference's angles for a session of this length, whatever is computed: dynamic and longrope scalings
    look at the longest sequence of a batch, the engine at the session that was planned."""
    rotary = model.model.rotary_emb
    if rotary.rope_type not in ("dynamic", "longrope"):
        return
    inv_freq, _ = ROPE_INIT_FUNCTIONS[rotary.rope_type](model.config, None, seq_len=torch.tensor(session_len))
    rotary.inv_freq, rotary.rope_type = inv_freq, "default"


def as_internlm2(folder: Path, kv_heads: int = 2, head_dim: int = 32) -> None:
    """Rewrite a Llama checkpoint with attention biases the way InternLM2's own code stores it."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": True}
    del config["attention_bias"]
    (folder / "config.json").write_text(json.dumps(config))
    names = {
        "model.embed_tokens": "model.tok_embeddings",
        "lm_head": "output",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    }
    stored, new = load_file(folder / "model.safetensors"), {}
    for name, tensor in stored.items():
        if "self_attn.q_proj" in name:
            k, v = (stored[name.replace("q_proj", other)] for other in ("k_proj", "v_proj"))
            parts = [t.reshape(kv_heads, -1, head_dim, *t.shape[1:]) for t in (tensor, k, v)]
            fused = torch.cat(parts, dim=1).reshape(-1, *tensor.shape[1:])
            new[name.replace("self_attn.q_proj", "attention.wqkv")] = fused
        elif "k_proj" not in name and "v_proj" not in name:
            for old, other in names.items():
                name = name.replace(old, other)
            new[name] = tensor.contiguous()
    save_file(new, folder / "model.safetensors")


def as_internlm3(folder: Path) -> None:
    """Rewrite a Llama checkpoint with the keys of InternLM3's config: q, k and v biases of their own."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["InternLM3ForCausalLM"], "model_type": "internlm3"}
    config |= {"qkv_bias": config.pop("attention_bias"), "bias": config["mlp_bias"]}
    (folder / "config.json").write_text(json.dumps(config))
