"""Checkpoints of many kinds, two layers deep: the planner reads headers and config alone."""

from __future__ import annotations

from typing import Any

import msgspec
from plan_machines import facts

from deploykit.checkpoint.facts import Facts, TensorInfo

_LLAMA: dict[str, Any] = {
    "architecture": "LlamaForCausalLM",
    "model_type": "llama",
    "num_layers": 2,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_heads": 32,
    "num_kv_heads": 8,
    "head_dim": 128,
    "vocab_size": 32000,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}


def _llama_like(**changes: Any) -> Facts:
    return facts(**(_LLAMA | changes))


def _gemma2() -> Facts:
    """Heads of 256, norms on both sides, a window in every second layer."""
    base = _llama_like(
        architecture="Gemma2ForCausalLM",
        model_type="gemma2",
        head_dim=256,
        num_heads=16,
        tie_word_embeddings=True,
        sliding_window=4096,
        config={"sliding_window": 4096},
    )
    extra = [
        TensorInfo(f"model.layers.{i}.{name}.weight", (4096,), "bfloat16", 8192, "model.safetensors", 0)
        for i in range(2)
        for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    ]
    return msgspec.structs.replace(base, tensors=(*base.tensors, *extra))


def _mixtral() -> Facts:
    """Eight experts a layer in place of one MLP."""
    base = _llama_like(
        architecture="MixtralForCausalLM",
        model_type="mixtral",
        config={"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 14336},
    )
    kept = [t for t in base.tensors if ".mlp." not in t.name]
    for layer in range(2):
        moe = f"model.layers.{layer}.block_sparse_moe"
        kept.append(TensorInfo(f"{moe}.gate.weight", (8, 4096), "bfloat16", 65536, "m.safetensors", 0))
        for expert in range(8):
            for name, shape in (("w1", (14336, 4096)), ("w2", (4096, 14336)), ("w3", (14336, 4096))):
                size = 2 * shape[0] * shape[1]
                name = f"{moe}.experts.{expert}.{name}.weight"
                kept.append(TensorInfo(name, shape, "bfloat16", size, "m.safetensors", 0))
    return msgspec.structs.replace(base, tensors=tuple(kept))


MODELS: dict[str, Facts] = {
    "llama": _llama_like(),
    "mha": _llama_like(num_kv_heads=32),
    "mistral": _llama_like(
        architecture="MistralForCausalLM",
        model_type="mistral",
        sliding_window=4096,
        config={"sliding_window": 4096},
    ),
    "qwen3": _llama_like(architecture="Qwen3ForCausalLM", model_type="qwen3"),
    "gemma2": _gemma2(),
    "mixtral": _mixtral(),
    "heads112": _llama_like(hidden_size=3584, head_dim=112),
    "cohere": _llama_like(architecture="CohereForCausalLM", model_type="cohere"),
    "bert": _llama_like(architecture="BertModel", model_type="bert"),
    "deepseek": _llama_like(
        architecture="DeepseekV2ForCausalLM", model_type="deepseek_v2", config={"kv_lora_rank": 512}
    ),
    "qwen3-next": _llama_like(
        architecture="Qwen3NextForCausalLM",
        model_type="qwen3_next",
        config={"layer_types": ["linear_attention", "full_attention"]},
    ),
    "llama4": _llama_like(
        architecture="Llama4ForCausalLM",
        model_type="llama4_text",
        config={"layer_types": ["chunked_attention", "full_attention"]},
    ),
    "mamba": _llama_like(architecture="MambaForCausalLM", model_type="mamba"),
    "jamba": _llama_like(architecture="JambaForCausalLM", model_type="jamba", config={"mamba_d_state": 16}),
}


def stored(model: Facts, how: str) -> Facts:
    """The checkpoint in another weight format: bfloat16 | float16 | float32 | q4_1 | awq | gptq | fp8."""
    if how == "bfloat16":
        return model
    if how in ("awq", "gptq"):
        return _packed(model, how)
    if how == "fp8":
        config = {**model.config, "quantization_config": {"quant_method": "fp8"}}
        return msgspec.structs.replace(model, quant_method="fp8", weight_dtype="float8_e4m3", config=config)
    gguf = how == "q4_1"
    bits = {"float16": 16, "float32": 32, "q4_1": 5}[how]
    tensors = tuple(
        msgspec.structs.replace(t, dtype="float32", nbytes=4 * t.num_elements)
        if gguf and len(t.shape) == 1
        else msgspec.structs.replace(t, dtype=how, nbytes=t.num_elements * bits // 8)
        for t in model.tensors
    )
    changes: dict[str, Any] = {"format": "gguf", "quant_method": "gguf"} if gguf else {}
    return msgspec.structs.replace(model, tensors=tensors, weight_dtype=how, **changes)


def _packed(model: Facts, how: str) -> Facts:
    """4 bits in groups of 128, the linear layers alone; quantizers leave routers alone."""
    tensors = []
    for t in model.tensors:
        router = t.name.endswith("block_sparse_moe.gate.weight")
        if len(t.shape) != 2 or router or "embed" in t.name or t.name.startswith("lm_head"):
            tensors.append(msgspec.structs.replace(t, dtype="float16"))
            continue
        module, (rows, cols) = t.name.removesuffix(".weight"), t.shape
        shapes = {
            "qweight": ("int32", (cols, rows // 8) if how == "awq" else (cols // 8, rows)),
            "qzeros": ("int32", (cols // 128, rows // 8)),
            "scales": ("float16", (cols // 128, rows)),
        }
        for leaf, (dtype, shape) in shapes.items():
            size = shape[0] * shape[1] * (4 if dtype == "int32" else 2)
            tensors.append(TensorInfo(f"{module}.{leaf}", shape, dtype, size, t.file, 0))
    section: dict[str, Any] = {"quant_method": how, "bits": 4, "group_size": 128}
    return msgspec.structs.replace(
        model,
        tensors=tuple(tensors),
        weight_dtype="int32",
        quant_method=how,
        config={**model.config, "quantization_config": section},
    )
