"""Tiny random models of many architectures, from transformers' config classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

VOCAB = 160
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.5,
}

# name -> (architecture, model_type, changes to the common config)
ZOO: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "llama", {}),
    "llama-tied-bias": (
        "LlamaForCausalLM",
        "llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama3-rope": (
        "LlamaForCausalLM",
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral-window": ("MistralForCausalLM", "mistral", {"sliding_window": 11}),
    "qwen2": ("Qwen2ForCausalLM", "qwen2", {}),
    "qwen3": ("Qwen3ForCausalLM", "qwen3", {"head_dim": 16}),
    "phi3": ("Phi3ForCausalLM", "phi3", {}),
    "gemma": ("GemmaForCausalLM", "gemma", {"tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2ForCausalLM",
        "gemma2",
        {
            "sliding_window": 9,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 20.0,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        "gemma3_text",
        {
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 12,
            "tie_word_embeddings": True,
        },
    ),
    "glm": ("GlmForCausalLM", "glm", {"partial_rotary_factor": 0.5}),
    "glm4": ("Glm4ForCausalLM", "glm4", {"partial_rotary_factor": 0.5}),
    "granite": (
        "GraniteForCausalLM",
        "granite",
        {"logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3},
    ),
    "olmo2": ("Olmo2ForCausalLM", "olmo2", {}),
    "smollm3": ("SmolLM3ForCausalLM", "smollm3", {}),
    "cohere": ("CohereForCausalLM", "cohere", {"tie_word_embeddings": True}),
    "starcoder2": ("Starcoder2ForCausalLM", "starcoder2", {}),
    "gpt-neox": ("GPTNeoXForCausalLM", "gpt_neox", {}),
    "gpt2": (
        "GPT2LMHeadModel",
        "gpt2",
        {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 256, "tie_word_embeddings": True},
    ),
    "opt": ("OPTForCausalLM", "opt", {"ffn_dim": 80, "word_embed_proj_dim": 48, "tie_word_embeddings": True}),
    "mixtral": ("MixtralForCausalLM", "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    ),
    "qwen2-moe": (
        "Qwen2MoeForCausalLM",
        "qwen2_moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 40,
        },
    ),
    "glm4-moe": (
        "Glm4MoeForCausalLM",
        "glm4_moe",
        {
            "attention_bias": True,
            "use_qk_norm": True,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
        },
    ),
    "hy3": (
        "HYV3ForCausalLM",
        "hy_v3",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 11158840.0},
        },
    ),
    "gpt-oss": (
        "GptOssForCausalLM",
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    ),
    "minimax-m2": (
        "MiniMaxM2ForCausalLM",
        "minimax_m2",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        },
    ),
}


def build(name: str, folder: Path, seed: int = 0) -> PreTrainedModel:
    """A random model saved under `folder`; returns transformers' own, for reference."""
    architecture, model_type, changes = ZOO[name]
    config = AutoConfig.for_model(model_type, **{**_COMMON, **changes})
    config.architectures = [architecture]
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(config).eval()
    widen(model)
    model.save_pretrained(folder)
    # from_pretrained: the reference goes through transformers' own loader too
    loaded: PreTrainedModel = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32)
    return loaded.eval()


@torch.no_grad()
def widen(model: PreTrainedModel) -> None:
    """Biases and norms away from 0 and 1, so that forgetting one shows."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            noise = torch.randn_like(parameter) * 0.2
            parameter.copy_(parameter + noise if "norm" in name.lower() or "ln" in name else noise)
