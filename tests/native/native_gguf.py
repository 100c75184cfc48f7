"""Tiny GGUF files of ggml's llama architecture, and transformers' model over the weights they mean."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parent.parent / "checkpoint"))

import checkpoint_files
import gguf_writer

from deploykit.checkpoint import read_facts
from deploykit.checkpoint.weights import iter_weights

HEADS, KV_HEADS, LAYERS = 4, 2, 2
VOCAB = len(checkpoint_files.VOCAB)


def _tensor(
    rng: np.random.Generator, name: str, kind: str, shape: tuple[int, ...]
) -> gguf_writer.GgufTensorSpec:
    """Random content of the size that a model's weights have, so that float32's noise stays small."""
    count = int(np.prod(shape))
    values = 0.15 * rng.standard_normal(count) if len(shape) > 1 else 1 + 0.2 * rng.standard_normal(count)
    if kind in ("F32", "F16"):
        return name, kind, shape, values.astype("<f4" if kind == "F32" else "<f2").tobytes()
    if kind == "BF16":
        return name, kind, shape, (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    scale, offset, quants = _BLOCKS[kind]
    out = b""
    for _ in range(count // gguf_writer.BY_NAME[kind].block):
        size = scale * (1 + rng.random())
        numbers = np.array([size] if offset is None else [size, offset * size], "<f2").tobytes()
        body = rng.integers(0, 256, quants, np.uint8).tobytes()
        out += body + numbers if kind == "Q6_K" else numbers + body
    return name, kind, shape, out


# kind -> scale of a block, its second number as a multiple of that (None = it has one number), bytes behind them
_BLOCKS = {
    "Q8_0": (0.003, None, 32),
    "Q4_0": (0.04, None, 16),
    "Q4_1": (0.04, -7.5, 16),
    "Q5_0": (0.02, None, 20),
    "Q5_1": (0.02, -15.5, 20),
    "Q4_K": (0.0005, 7.5, 140),
    "Q5_K": (0.00025, 15.5, 172),
    "Q6_K": (0.0001, None, 208),
}


def sizes(kind: str) -> tuple[int, int]:
    """(hidden, intermediate): rows of K-quants are whole blocks of 256."""
    return (256, 256) if kind.endswith("_K") else (128, 96)


def tensors(kind: str, tied: bool, seed: int = 0) -> list[gguf_writer.GgufTensorSpec]:
    rng = np.random.default_rng(seed)
    hidden, inner = sizes(kind)
    kv = hidden // HEADS * KV_HEADS
    specs = [("token_embd.weight", "Q8_0", (VOCAB, hidden)), ("output_norm.weight", "F32", (hidden,))]
    if not tied:
        specs.append(("output.weight", kind, (VOCAB, hidden)))
    for i in range(LAYERS):
        for name, shape in (
            ("attn_q", (hidden, hidden)),
            ("attn_k", (kv, hidden)),
            ("attn_v", (kv, hidden)),
            ("attn_output", (hidden, hidden)),
            ("ffn_gate", (inner, hidden)),
            ("ffn_up", (inner, hidden)),
            ("ffn_down", (hidden, inner)),
        ):
            specs.append((f"blk.{i}.{name}.weight", kind, shape))
        specs += [(f"blk.{i}.{name}.weight", "F32", (hidden,)) for name in ("attn_norm", "ffn_norm")]
    return [_tensor(rng, *spec) for spec in specs]


def metadata(kind: str = "Q4_1") -> dict[str, Any]:
    hidden, inner = sizes(kind)
    return checkpoint_files.metadata(
        **{
            "llama.embedding_length": hidden,
            "llama.feed_forward_length": inner,
            "llama.block_count": LAYERS,
            "llama.attention.head_count": HEADS,
            "llama.attention.head_count_kv": KV_HEADS,
            "llama.context_length": 256,
            "llama.rope.dimension_count": hidden // HEADS,
        }
    )


def write(path: Path, kind: str, tied: bool = True, seed: int = 0) -> Path:
    return gguf_writer.write_gguf(path, metadata(kind), tensors(kind, tied, seed))


def reference(path: Path, cache: Path) -> PreTrainedModel:
    """transformers' Llama over the file's weights, dequantized to float32."""
    facts = read_facts(path)
    config = LlamaConfig(**{k: v for k, v in facts.config.items() if k != "model_type"})
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).to(torch.float32).eval()
    state = dict(iter_weights(facts, "float32", cache))
    result = model.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    model.tie_weights()
    return model
