"""A tiny Llama in the layouts whose weights are pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from deploykit.checkpoint import read_facts
from deploykit.checkpoint.weights import iter_weights

State = dict[str, torch.Tensor]
SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, architectures=["LlamaForCausalLM"], initializer_range=0.4)
    return LlamaForCausalLM(config).eval()


def write_bin(folder: Path, model: LlamaForCausalLM) -> Path:
    """A folder in Hugging Face's older layout, with code beside it."""
    folder.mkdir()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    config = {**model.config.to_diff_dict(), "auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes(b"pieces")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    (folder / "modeling.py").write_text("raise SystemExit('code was run')")
    (folder / "training_args.bin").write_bytes(b"\x80\x04")
    return folder


def read(folder: Path) -> State:
    return dict(iter_weights(read_facts(folder), "float32", folder / "cache"))


def to_meta(state: State, parts: int, embedding: int) -> list[State]:
    """Hugging Face's Llama as Meta writes it, cut into parts of tensor parallelism."""
    rows = {
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
    }
    rows |= {"mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3"}
    columns = {"self_attn.o_proj": "attention.wo", "mlp.down_proj": "feed_forward.w2"}
    whole = {"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
    top = {"model.embed_tokens.weight": "tok_embeddings.weight", "lm_head.weight": "output.weight"}
    out: list[State] = [{"rope.freqs": torch.ones(8)} for _ in range(parts)]
    for name, tensor in state.items():
        if name == "model.norm.weight" or name in top:
            theirs, axis = (
                top.get(name, "norm.weight"),
                {"model.norm.weight": None, "lm_head.weight": 0}.get(name, embedding),
            )
        else:
            _, _, index, module = name.removesuffix(".weight").split(".", 3)
            axis = 0 if module in rows else 1 if module in columns else None
            theirs = f"layers.{index}.{({**rows, **columns, **whole})[module]}.weight"
            if module in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = 4 if module == "self_attn.q_proj" else 2
                tensor = tensor.view(heads, 2, 8, 64).transpose(1, 2).reshape(tensor.shape)
        for part, piece in zip(
            out, [tensor] * parts if axis is None else tensor.chunk(parts, axis), strict=True
        ):
            part[theirs] = piece.clone()
    return out


def write_meta(folder: Path, parts: list[State], **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for i, part in enumerate(parts):
        torch.save(part, folder / f"consolidated.{i:02d}.pth")
    params = {
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "norm_eps": 1e-5,
        "vocab_size": -1,
        **changes,
    }
    (folder / "params.json").write_text(json.dumps(params))
    return folder
