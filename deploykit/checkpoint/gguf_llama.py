"""A `llama` GGUF as Hugging Face knows it: its config.json, and each tensor's name and shape there."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.facts import TensorInfo
from deploykit.checkpoint.files import open_regular
from deploykit.checkpoint.ggml_types import READABLE
from deploykit.checkpoint.gguf import GgufHeader, GgufTensor

_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER = re.compile(r"blk\.(\d{1,5})\.([a-z_]+)\.(weight|bias)")
_ROPE_FREQS = "rope_freqs.weight"
# Metadata that changes what the model computes and that Hugging Face's Llama has no place for.
_FOREIGN = ("embedding_scale", "residual_scale", "logit_scale", "attention.scale", "attention.clamp_kqv")
_MAX_INT = 2**31 - 1


class Metadata:
    """Typed access to a GGUF's metadata; a missing or absurd value names its key."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self.values = values

    def bad(self, key: str, why: str) -> CheckpointError:
        return CheckpointError(f"metadata {key} is missing or wrong", file=self.path, why=why)

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = _MAX_INT) -> int:
        value = self.values.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.bad(key, f"an integer in {low}..{high} is needed, not {printable(repr(value))}")
        return value

    def optional_id(self, key: str, vocab_size: int) -> int | None:
        return self.integer(key, low=0, high=vocab_size - 1) if key in self.values else None

    def number(self, key: str, default: float | None = None) -> float:
        """A positive float32, as the shortest decimal that means the same (1e-05, not 9.99999974e-06)."""
        value: Any = self.values.get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or not 0 < value < 3e38:
            raise self.bad(key, f"a positive number is needed, not {printable(repr(value))}")
        short = float(f"{value:.7g}")
        same = struct.pack("<f", short) == struct.pack("<f", value)
        return short if same else float(value)

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self.values.get(key, default)
        if value is not None and not isinstance(value, str):
            raise self.bad(key, "text is needed")
        return value

    def strings(self, key: str) -> list[str]:
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not isinstance(value[0], str):
            raise self.bad(key, "a list of text is needed")
        return value


def llama_config(path: Path, header: GgufHeader) -> dict[str, Any]:
    """The config.json of LlamaForCausalLM that says what the metadata says; what it can't say is refused."""
    meta = Metadata(path, header.metadata)
    tensors = {t.name: t for t in header.tensors}
    for key in _FOREIGN:
        if f"llama.{key}" in meta.values:
            raise CheckpointError(f"metadata llama.{key} isn't supported", file=path)
    if meta.values.get("llama.expert_count"):
        fix = "use the checkpoint in safetensors"
        raise CheckpointError("mixture-of-experts GGUF files aren't supported", file=path, fix=fix)
    heads = meta.integer("llama.attention.head_count", high=4096)
    hidden = meta.integer("llama.embedding_length", high=1 << 20)
    context = meta.integer("llama.context_length")
    if hidden % heads and "llama.attention.key_length" not in meta.values:
        raise meta.bad("llama.embedding_length", f"{hidden} isn't a multiple of {heads} heads")
    head_dim = meta.integer("llama.attention.key_length", hidden // heads, high=1 << 16)
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if meta.integer(key, head_dim) != head_dim:
            raise meta.bad(key, f"it differs from the head size of {head_dim}, which Llama doesn't know")
    if meta.integer("llama.attention.sliding_window", context, low=0) not in (0, context):
        raise CheckpointError("metadata llama.attention.sliding_window isn't supported", file=path)
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError("a tensor is missing or misshapen", file=path, tensor="token_embd.weight")
    vocab_size = embedding.shape[0]
    if vocab_size > 1 << 24:
        raise CheckpointError(
            "the vocabulary is absurd", file=path, tensor="token_embd.weight", why=f"{vocab_size} rows"
        )
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta.integer("llama.feed_forward_length", high=1 << 24),
        "num_hidden_layers": meta.integer("llama.block_count", high=4096),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.integer("llama.attention.head_count_kv", heads, high=heads),
        "head_dim": head_dim,
        "vocab_size": vocab_size,
        "max_position_embeddings": context,
        "rms_norm_eps": meta.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(path, meta, tensors.get(_ROPE_FREQS), head_dim),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
    }
    if heads % config["num_key_value_heads"]:
        raise meta.bad("llama.attention.head_count_kv", f"{heads} heads can't share them evenly")
    for name, key in (
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "padding_token_id"),
    ):
        value = meta.optional_id(f"tokenizer.ggml.{key}", vocab_size)
        if value is not None:
            config[name] = value
    return config


def llama_tensors(path: Path, header: GgufHeader, config: dict[str, Any]) -> tuple[TensorInfo, ...]:
    """The file's tensors under Hugging Face's names: all that the config asks for, in its shapes, and no other."""
    expected = _expected_shapes(config)
    found: list[TensorInfo] = []
    for t in header.tensors:
        if t.name == _ROPE_FREQS:
            continue
        name = _hf_name(t.name)
        if name is None or name not in expected:
            raise CheckpointError("Llama has no such tensor", file=path, tensor=t.name)
        if t.shape != expected[name]:
            why = f"its shape is {t.shape}, the metadata asks for {expected[name]}"
            raise CheckpointError("a tensor has the wrong shape", file=path, tensor=t.name, why=why)
        del expected[name]
        if t.type.name not in READABLE:
            raise CheckpointError(
                f"the tensor type {t.type.name} isn't supported",
                file=path,
                tensor=t.name,
                why="supported: " + ", ".join(READABLE),
                fix="take another file of the model, such as its Q8_0 or F16 one",
            )
        if len(t.shape) == 1 and t.type.block > 1:
            raise CheckpointError(f"a {t.type.name} vector isn't supported", file=path, tensor=t.name)
        found.append(TensorInfo(name, t.shape, READABLE[t.type.name], t.nbytes, path.name, t.offset))
    if expected:
        why = f"{len(expected)} are missing: {', '.join(list(expected)[:3])}"
        raise CheckpointError("tensors of the model are missing", file=path, why=why)
    return tuple(found)


def _hf_name(name: str) -> str | None:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    match = _LAYER.fullmatch(name)
    if not match or match[2] not in _LAYER_NAMES:
        return None
    return f"model.layers.{int(match[1])}.{_LAYER_NAMES[match[2]]}.{match[3]}"


def _expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    attention = {"q_proj": (q, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, q)}
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        for part, table, bias in (
            ("self_attn", attention, config["attention_bias"]),
            ("mlp", mlp, config["mlp_bias"]),
        ):
            for name, shape in table.items():
                shapes[f"{layer}.{part}.{name}.weight"] = shape
                if bias:
                    shapes[f"{layer}.{part}.{name}.bias"] = shape[:1]
    return shapes


# ---------------------------------------------------------------- rotary embedding


def _rope(path: Path, meta: Metadata, freqs: GgufTensor | None, head_dim: int) -> dict[str, Any]:
    """`rope_parameters` of a config.json."""
    theta = meta.number("llama.rope.freq_base", 10000.0)
    kind = meta.text("llama.rope.scaling.type", "none")
    if "llama.rope.scale_linear" in meta.values:  # what converters wrote before scaling.type
        factor = meta.number("llama.rope.scale_linear")
        kind = "linear" if factor != 1.0 else kind
    else:
        factor = meta.number("llama.rope.scaling.factor", 1.0)
    if freqs is not None:
        if kind != "none":
            raise meta.bad("llama.rope.scaling.type", f"{kind} together with {_ROPE_FREQS}")
        return {"rope_theta": theta, **_llama3_scaling(path, freqs, theta, head_dim)}
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind == "yarn":
        original = meta.integer("llama.rope.scaling.original_context_length")
        return {
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    raise CheckpointError(f"rope scaling {printable(repr(kind))} isn't supported", file=path)


def _llama3_scaling(path: Path, freqs: GgufTensor, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3's scaling, told from the divisors that converters write into `rope_freqs.weight`.

    The file holds the result, a config.json the parameters; every published model has low 1, high 4 and an original
    context of 8192, so the factor (the largest divisor) fixes them all. Divisors that this doesn't give are refused.
    """
    n = head_dim // 2
    if freqs.shape != (n,) or freqs.type.name != "F32":
        raise CheckpointError("rope divisors of the wrong shape or type", file=path, tensor=_ROPE_FREQS)
    with open_regular(path) as f:
        f.seek(freqs.offset)
        stored = struct.unpack(f"<{n}f", f.read(4 * n))
    factor, low, high, original = max(stored), 1.0, 4.0, 8192
    for i, divisor in enumerate(stored):
        wavelength = 2 * math.pi * theta ** (2 * i / head_dim)
        if wavelength < original / high:
            wanted = 1.0
        elif wavelength > original / low:
            wanted = factor
        else:
            smooth = (original / wavelength - low) / (high - low)
            wanted = 1 / ((1 - smooth) / factor + smooth)
        if not math.isclose(divisor, wanted, rel_tol=1e-4):
            why = f"divisor {i} is {divisor:.6g}, Llama 3's formula gives {wanted:.6g}"
            raise CheckpointError(
                "these rope divisors aren't supported", file=path, tensor=_ROPE_FREQS, why=why
            )
    return {
        "rope_type": "llama3",
        "factor": float(factor),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
