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

HIDDEN, INNER, HEADS, KV_HEADS, LAYERS = 128, 96, 4, 2, 2
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
    halves, quants = {"Q8_0": (1, 32), "Q4_0": (1, 16), "Q4_1": (2, 16)}[kind]
    size = {"Q8_0": 0.003, "Q4_0": 0.04, "Q4_1": 0.04}[kind]
    out = b""
    for _ in range(count // 32):
        scale = size * (1 + rng.random())
        out += np.array([scale, -7.5 * scale][:halves], "<f2").tobytes()
        out += rng.integers(0, 256, quants, np.uint8).tobytes()
    return name, kind, shape, out


def tensors(kind: str, tied: bool, seed: int = 0) -> list[gguf_writer.GgufTensorSpec]:
    rng = np.random.default_rng(seed)
    kv = HIDDEN // HEADS * KV_HEADS
    specs = [("token_embd.weight", "Q8_0", (VOCAB, HIDDEN)), ("output_norm.weight", "F32", (HIDDEN,))]
    if not tied:
        specs.append(("output.weight", kind, (VOCAB, HIDDEN)))
    for i in range(LAYERS):
        for name, shape in (
            ("attn_q", (HIDDEN, HIDDEN)),
            ("attn_k", (kv, HIDDEN)),
            ("attn_v", (kv, HIDDEN)),
            ("attn_output", (HIDDEN, HIDDEN)),
            ("ffn_gate", (INNER, HIDDEN)),
            ("ffn_up", (INNER, HIDDEN)),
            ("ffn_down", (HIDDEN, INNER)),
        ):
            specs.append((f"blk.{i}.{name}.weight", kind, shape))
        specs += [(f"blk.{i}.{name}.weight", "F32", (HIDDEN,)) for name in ("attn_norm", "ffn_norm")]
    return [_tensor(rng, *spec) for spec in specs]


def metadata() -> dict[str, Any]:
    return checkpoint_files.metadata(
        **{
            "llama.embedding_length": HIDDEN,
            "llama.feed_forward_length": INNER,
            "llama.block_count": LAYERS,
            "llama.attention.head_count": HEADS,
            "llama.attention.head_count_kv": KV_HEADS,
            "llama.context_length": 256,
            "llama.rope.dimension_count": HIDDEN // HEADS,
        }
    )


def write(path: Path, kind: str, tied: bool = True, seed: int = 0) -> Path:
    return gguf_writer.write_gguf(path, metadata(), tensors(kind, tied, seed))


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
