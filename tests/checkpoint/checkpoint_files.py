"""Small checkpoints made of random bytes: a llama GGUF with every supported tensor type, and a folder of two shards."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from gguf_writer import GgufTensorSpec, int32_list

HIDDEN, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
HEAD_DIM = HIDDEN // HEADS


def byte_alphabet() -> list[str]:
    """The 256 characters of byte-level BPE, by byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]


VOCAB = [*byte_alphabet(), "he", "ll", "hell", "hello", "Ġhello", "<|im_start|>", "<|im_end|>", "<tool>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello"]
TOKEN_TYPES = [1] * (len(VOCAB) - 3) + [3, 3, 4]


def metadata(**changes: Any) -> dict[str, Any]:
    """A tiny llama's metadata; `changes` replace keys (dots as __), None removes one."""
    values: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": LAYERS,
        "llama.context_length": 256,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": HEAD_DIM,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": VOCAB,
        "tokenizer.ggml.token_type": int32_list(TOKEN_TYPES),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": VOCAB.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": VOCAB.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    return values


def random_tensor(rng: np.random.Generator, name: str, kind: str, shape: tuple[int, ...]) -> GgufTensorSpec:
    """A tensor of `kind` with finite random content."""
    n = int(np.prod(shape))
    if kind == "F32":
        return name, kind, shape, rng.standard_normal(n).astype("<f4").tobytes()
    if kind == "F16":
        return name, kind, shape, rng.standard_normal(n).astype("<f2").tobytes()
    if kind == "BF16":
        return (
            name,
            kind,
            shape,
            (rng.standard_normal(n).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(),
        )
    halves, quants = {"Q8_0": (1, 32), "Q4_0": (1, 16), "Q4_1": (2, 16)}[kind]
    out = b""
    for _ in range(n // 32):
        out += (
            rng.standard_normal(halves).astype("<f2").tobytes()
            + rng.integers(0, 256, quants, np.uint8).tobytes()
        )
    return name, kind, shape, out


def llama_tensors(seed: int = 0) -> list[GgufTensorSpec]:
    rng = np.random.default_rng(seed)
    kv = KV_HEADS * HEAD_DIM
    specs = [random_tensor(rng, "token_embd.weight", "Q8_0", (len(VOCAB), HIDDEN))]
    for i in range(LAYERS):
        for name, kind, shape in (
            ("attn_norm", "F32", (HIDDEN,)),
            ("attn_q", "Q4_1", (HIDDEN, HIDDEN)),
            ("attn_k", "Q4_0", (kv, HIDDEN)),
            ("attn_v", "F16", (kv, HIDDEN)),
            ("attn_output", "BF16", (HIDDEN, HIDDEN)),
            ("ffn_norm", "F32", (HIDDEN,)),
            ("ffn_gate", "Q4_1", (INNER, HIDDEN)),
            ("ffn_up", "Q4_0", (INNER, HIDDEN)),
            ("ffn_down", "Q8_0", (HIDDEN, INNER)),
        ):
            specs.append(random_tensor(rng, f"blk.{i}.{name}.weight", kind, shape))
    specs.append(random_tensor(rng, "output_norm.weight", "F32", (HIDDEN,)))
    return specs


# ---------------------------------------------------------------- safetensors


def safetensors_bytes(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def pack(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return safetensors_bytes(header, data)


CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
