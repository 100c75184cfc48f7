"""Described machines and checkpoints: the planner sees nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.hardware.machine import CPU, GPU, Machine
from deploykit.recipe.schema import Recipe

GIB = 1 << 30
MIB = 1 << 20

ZEN4 = CPU(model="AMD EPYC", cores=2, flags=("avx2", "avx512f", "avx512_vnni", "avx512_bf16"))
HASWELL = CPU(model="Intel Core i5-4300U", cores=4, flags=("avx2", "fma"))


def machine(
    cpu: CPU = ZEN4, total: float = 24 * GIB, available: float | None = None, **changes: Any
) -> Machine:
    fields: dict[str, Any] = {
        "system": "Linux",
        "arch": "x86_64",
        "cpu": cpu,
        "memory_total": int(total),
        "memory_available": int(total * 0.95 if available is None else available),
        "disk_free": 100 * GIB,
        "gpu_error": "NVML: NVML Shared Library Not Found",
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "transformers": "5.17.0",
    }
    return Machine(**(fields | changes))


def gpu(name: str, capability: tuple[int, int], total: float, **changes: Any) -> GPU:
    fields: dict[str, Any] = {
        "index": 0,
        "name": name,
        "compute_capability": capability,
        "total_bytes": int(total),
        "free_bytes": int(total),
        "driver": "580.95.05",
        "cuda_driver": "13.0",
    }
    return GPU(**(fields | changes))


H100 = gpu("NVIDIA H100 80GB HBM3", (9, 0), 78 * GIB)
T4 = gpu("Tesla T4", (7, 5), 14.6 * GIB)
V100 = gpu("Tesla V100-SXM2-16GB", (7, 0), 16 * GIB)


def gpu_machine(*gpus: GPU, **changes: Any) -> Machine:
    fields: dict[str, Any] = {"gpus": gpus, "gpu_error": None, "torch": "2.13.0+cu130", "torch_cuda": "13.0"}
    return machine(**(fields | changes))


def facts(**fields: Any) -> Facts:
    """A checkpoint with all the tensors that its sizes ask for, under Llama's names (and Qwen3's two norms)."""
    hidden, inner, vocab = fields["hidden_size"], fields["intermediate_size"], fields["vocab_size"]
    q, kv = (fields[key] * fields["head_dim"] for key in ("num_heads", "num_kv_heads"))
    dtype: str = fields.setdefault("weight_dtype", "bfloat16")

    def tensor(name: str, *shape: int) -> TensorInfo:
        count = 1
        for size in shape:
            count *= size
        return TensorInfo(f"{name}.weight", shape, dtype, 2 * count, "model.safetensors", 0)

    tensors = [tensor("model.embed_tokens", vocab, hidden), tensor("model.norm", hidden)]
    if not fields["tie_word_embeddings"]:
        tensors.append(tensor("lm_head", vocab, hidden))
    for i in range(fields["num_layers"]):
        layer = f"model.layers.{i}"
        tensors += [
            tensor(f"{layer}.input_layernorm", hidden),
            tensor(f"{layer}.self_attn.q_proj", q, hidden),
            tensor(f"{layer}.self_attn.k_proj", kv, hidden),
            tensor(f"{layer}.self_attn.v_proj", kv, hidden),
            tensor(f"{layer}.self_attn.o_proj", hidden, q),
            tensor(f"{layer}.post_attention_layernorm", hidden),
            tensor(f"{layer}.mlp.gate_proj", inner, hidden),
            tensor(f"{layer}.mlp.up_proj", inner, hidden),
            tensor(f"{layer}.mlp.down_proj", hidden, inner),
        ]
        if fields["model_type"] == "qwen3":
            head_dim = fields["head_dim"]
            tensors += [tensor(f"{layer}.self_attn.{x}_norm", head_dim) for x in "qk"]
    fields = {"path": "/models/m", "format": "safetensors", "config": {}, "eos_token_ids": (2,)} | fields
    return Facts(tensors=tuple(tensors), **fields)


SMOLLM2 = facts(
    architecture="LlamaForCausalLM",
    model_type="llama",
    num_layers=30,
    hidden_size=576,
    intermediate_size=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab_size=49152,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
QWEN3_8B = facts(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    num_layers=36,
    hidden_size=4096,
    intermediate_size=12288,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=40960,
    tie_word_embeddings=False,
)


def recipe(**sections: Any) -> Recipe:
    """`recipe(engine={...})`; a small model section is added."""
    return Recipe.model_validate({"version": 1, "model": {"path": "/models/m"}} | sections)


def write_checkpoint(folder: Path) -> Path:
    """A Llama of two layers in Hugging Face's layout, 512 positions, real files of a few KiB."""
    import numpy as np
    from safetensors.numpy import save_file

    hidden, inner, vocab, heads, kv_heads = 32, 64, 128, 4, 2
    head_dim = hidden // heads
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
    }
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}self_attn.k_proj.weight": (kv_heads * head_dim, hidden),
            f"{prefix}self_attn.v_proj.weight": (kv_heads * head_dim, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}mlp.up_proj.weight": (inner, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, inner),
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    save_file(
        {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, folder / "model.safetensors"
    )
    return folder
