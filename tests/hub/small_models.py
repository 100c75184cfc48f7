"""Small models as a hub holds them: every kind of layout, with weights that are far larger than their headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, INNER, VOCAB, LAYERS = 64, 128, 512, 2
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
Tensors = dict[str, tuple[str, list[int]]]
_BYTES = {"BF16": 2, "F16": 2, "I32": 4}


def safetensors(tensors: Tensors) -> bytes:
    """A file of those tensors, its weights random."""
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = _BYTES[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + np.random.default_rng(0).bytes(at)


def _tensors(layer: int, packed: bool = False) -> Tensors:
    name = f"model.layers.{layer}"
    shapes = {
        "self_attn.q_proj": [HIDDEN, HIDDEN],
        "self_attn.k_proj": [HIDDEN // 2, HIDDEN],
        "self_attn.v_proj": [HIDDEN // 2, HIDDEN],
        "self_attn.o_proj": [HIDDEN, HIDDEN],
        "mlp.gate_proj": [INNER, HIDDEN],
        "mlp.up_proj": [INNER, HIDDEN],
        "mlp.down_proj": [HIDDEN, INNER],
    }
    found: Tensors = {}
    for part, (rows, columns) in shapes.items():
        if packed:
            found[f"{name}.{part}.qweight"] = ("I32", [columns, rows // 8])
            found[f"{name}.{part}.qzeros"] = ("I32", [columns // 32, rows // 8])
            found[f"{name}.{part}.scales"] = ("F16", [columns // 32, rows])
        else:
            found[f"{name}.{part}.weight"] = ("BF16", [rows, columns])
    for norm in ("input_layernorm", "post_attention_layernorm"):
        found[f"{name}.{norm}.weight"] = ("BF16", [HIDDEN])
    return found


def _ends() -> Tensors:
    return {
        "model.embed_tokens.weight": ("BF16", [VOCAB, HIDDEN]),
        "model.norm.weight": ("BF16", [HIDDEN]),
        "lm_head.weight": ("BF16", [VOCAB, HIDDEN]),
    }


def _small(**config: Any) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(CONFIG | config).encode(),
        "generation_config.json": json.dumps({"eos_token_id": [2, 3], "temperature": 0.6}).encode(),
        "tokenizer_config.json": json.dumps({"chat_template": TEMPLATE}).encode(),
        "tokenizer.json": b'{"model": {}}' + b" " * 200_000,
        "README.md": b"hello" * 1000,
    }


def whole() -> dict[str, bytes]:
    """One file of weights."""
    tensors = _ends() | _tensors(0) | _tensors(1)
    return {**_small(), "model.safetensors": safetensors(tensors)}


def sharded() -> dict[str, bytes]:
    """Two shards and their index; named templates beside the plain one."""
    shards = {
        "model-00001-of-00002.safetensors": {**_ends(), **_tensors(0)},
        "model-00002-of-00002.safetensors": _tensors(1),
    }
    index = {"weight_map": {t: shard for shard, tensors in shards.items() for t in tensors}}
    return {
        **_small(),
        **{name: safetensors(tensors) for name, tensors in shards.items()},
        "model.safetensors.index.json": json.dumps(index).encode(),
        "chat_template.jinja": TEMPLATE.encode(),
        "additional_chat_templates/tool_use.jinja": b"tools: " + TEMPLATE.encode(),
    }


def awq() -> dict[str, bytes]:
    """4-bit weights; how they are packed is told in config.json."""
    tensors = _ends() | _tensors(0, packed=True) | _tensors(1, packed=True)
    return {**_small(quantization_config=AWQ), "model.safetensors": safetensors(tensors)}


def gguf_file(folder: Path) -> bytes:
    """One GGUF file whose header is larger than the first piece that is asked for."""
    (data,) = gguf_files(folder).values()
    return data


def gguf_files(folder: Path, tensors: int = 0) -> dict[str, bytes]:
    """The same model in files of at most so many tensors, cut by ggml's own writer."""
    import gguf

    path = folder / "made.gguf"
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=tensors)
    writer.add_name("small")
    writer.add_block_count(LAYERS)
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // 4)
    tokens = [
        *(chr(256 + i) for i in range(256)),
        *(f"a-rather-long-token-{i:04d}" * 20 for i in range(VOCAB - 256)),
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))

    add("token_embd.weight", VOCAB, HIDDEN)
    add("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        for part, shape in {
            "attn_norm": (HIDDEN,),
            "ffn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (HIDDEN // 2, HIDDEN),
            "attn_v": (HIDDEN // 2, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (INNER, HIDDEN),
            "ffn_up": (INNER, HIDDEN),
            "ffn_down": (HIDDEN, INNER),
        }.items():
            add(f"blk.{layer}.{part}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {file.name: file.read_bytes() for file in sorted(folder.glob("made*.gguf"))}
