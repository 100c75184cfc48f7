"""A checkpoint of a few kilobytes in Hugging Face's layout: random weights, one token a byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE = 32, 2, 4, 2, 64
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def make(folder: Path) -> Path:
    """Write the checkpoint into `folder` (created) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    specials = ["<s>", "</s>"]
    vocab = {token: i for i, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)
    write(
        folder / "config.json",
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        intermediate_size=INTERMEDIATE,
        vocab_size=len(vocab),
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        hidden_act="silu",
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        torch_dtype="float32",
    )
    write(folder / "generation_config.json", temperature=0.6, top_p=0.9, top_k=-1, max_length=99)
    random = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.2).astype(np.float32)

    kv = HIDDEN // HEADS * KV_HEADS
    tensors = {"model.embed_tokens.weight": weight(len(vocab), HIDDEN), "model.norm.weight": weight(HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        tensors |= {
            f"{layer}input_layernorm.weight": weight(HIDDEN),
            f"{layer}post_attention_layernorm.weight": weight(HIDDEN),
            f"{layer}self_attn.q_proj.weight": weight(HIDDEN, HIDDEN),
            f"{layer}self_attn.k_proj.weight": weight(kv, HIDDEN),
            f"{layer}self_attn.v_proj.weight": weight(kv, HIDDEN),
            f"{layer}self_attn.o_proj.weight": weight(HIDDEN, HIDDEN),
            f"{layer}mlp.gate_proj.weight": weight(INTERMEDIATE, HIDDEN),
            f"{layer}mlp.up_proj.weight": weight(INTERMEDIATE, HIDDEN),
            f"{layer}mlp.down_proj.weight": weight(HIDDEN, INTERMEDIATE),
        }
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def write(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(fields))
