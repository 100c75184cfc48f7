"""Meta's own layout of Llama: the names of Hugging Face, how parts are merged, and the config.json of its sizes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.files import read_json

# How a tensor lies in the parts: cut along its rows or columns, whole in each; `embedding` is cut either way.
Cut = Literal["rows", "columns", "whole", "embedding"]


class Entry(NamedTuple):
    name: str  # Hugging Face's
    cut: Cut
    heads: Literal["", "q", "kv"] = ""  # its rows are in pairs, of so many heads


_TOP = {
    "tok_embeddings.weight": Entry("model.embed_tokens.weight", "embedding"),
    "norm.weight": Entry("model.norm.weight", "whole"),
    "output.weight": Entry("lm_head.weight", "rows"),
}
_LAYER = {
    "attention.wq": Entry("self_attn.q_proj", "rows", "q"),
    "attention.wk": Entry("self_attn.k_proj", "rows", "kv"),
    "attention.wv": Entry("self_attn.v_proj", "rows"),
    "attention.wo": Entry("self_attn.o_proj", "columns"),
    "feed_forward.w1": Entry("mlp.gate_proj", "rows"),
    "feed_forward.w2": Entry("mlp.down_proj", "columns"),
    "feed_forward.w3": Entry("mlp.up_proj", "rows"),
    "attention_norm": Entry("input_layernorm", "whole"),
    "ffn_norm": Entry("post_attention_layernorm", "whole"),
}
_IN_LAYER = re.compile(r"layers\.(\d{1,4})\.([a-z0-9_.]+)\.weight")
_BUFFERS = re.compile(r"rope\.freqs|layers\.\d+\.attention\.inner_attention\.rope\.freqs|freqs_cis")


def entry_of(name: str) -> Entry | None:
    """What a tensor of a part is; None for a buffer that nothing needs. Raises KeyError for an unknown one."""
    if name in _TOP:
        return _TOP[name]
    if _BUFFERS.fullmatch(name):
        return None
    match = _IN_LAYER.fullmatch(name)
    if match is None or match[2] not in _LAYER:
        raise KeyError(name)
    found = _LAYER[match[2]]
    return found._replace(name=f"model.layers.{int(match[1])}.{found.name}.weight")


class Params(NamedTuple):
    """params.json."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    values: dict[str, Any]
    file: Path


def read_params(folder: Path) -> Params:
    """The sizes, proven. Raises CheckpointError that names the key."""
    file = folder / "params.json"
    values = read_json(file)

    def integer(key: str, default: int | None = None, high: int = 1 << 20) -> int:
        value = values.get(key, default)
        if type(value) is not int or not 0 < value <= high:
            why = f"an integer in 1..{high} is needed, not {printable(repr(value))}"
            raise CheckpointError(f"params.json: {key} is missing or wrong", file=file, why=why)
        return value

    for key in ("moe", "vision_chunk_size", "lora", "quantization_args", "image_size"):
        if values.get(key) not in (None, -1, False):
            fix = "take the model in Hugging Face's layout"
            raise CheckpointError(
                f"params.json: {key} isn't supported", file=file, why="only plain text models are", fix=fix
            )
    hidden, heads = integer("dim"), integer("n_heads", high=4096)
    kv_heads = integer("n_kv_heads", heads, high=heads) if values.get("n_kv_heads") is not None else heads
    if hidden % heads and "head_dim" not in values:
        raise CheckpointError("params.json: dim isn't a multiple of n_heads", file=file)
    head_dim = integer("head_dim", hidden // heads, high=1 << 14)
    if heads % kv_heads or head_dim % 2:
        raise CheckpointError("params.json: n_heads, n_kv_heads and dim don't go together", file=file)
    return Params(hidden, integer("n_layers", high=4096), heads, kv_heads, head_dim, values, file)


def make_config(
    params: Params, *, vocab: int, inner: int, dtype: str, tied: bool, context: int | None
) -> dict[str, Any]:
    """config.json of LlamaForCausalLM, or of Mistral where there is a window.

    What params.json doesn't say is told by what it does say, as of the models that Meta published: the trained length
    (`context` overrides it) and the factor of Llama 3.1's and 3.2's scaling.
    """
    values = params.values
    theta = _number(params, "rope_theta", 10000.0)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if values.get("use_scaled_rope") is True:
        small = params.hidden in (2048, 3072)  # Llama 3.2 1B and 3B
        factor = _number(params, "rope_scaling_factor", 32.0 if small else 8.0)
        rope |= {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope["original_max_position_embeddings"] = 8192
    window = values.get("sliding_window")
    if window is not None and (type(window) is not int or window < 1):
        raise CheckpointError("params.json: sliding_window is wrong", file=params.file)
    third = vocab == 128256  # Llama 3's vocabulary
    config: dict[str, Any] = {
        "architectures": ["MistralForCausalLM" if window else "LlamaForCausalLM"],
        "model_type": "mistral" if window else "llama",
        "hidden_act": "silu",
        "hidden_size": params.hidden,
        "intermediate_size": inner,
        "num_hidden_layers": params.layers,
        "num_attention_heads": params.heads,
        "num_key_value_heads": params.kv_heads,
        "head_dim": params.head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": context or _context(params, theta, vocab),
        "rms_norm_eps": _number(params, "norm_eps", 1e-5),
        "rope_parameters": rope,
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": dtype,
        "bos_token_id": 128000 if third else 1,
        "eos_token_id": [128001, 128008, 128009] if third else 2,
    }
    return {**config, "sliding_window": window} if window else config


def _context(params: Params, theta: float, vocab: int) -> int:
    values = params.values
    said = values.get("max_seq_len", values.get("max_position_embeddings"))
    if type(said) is int and 0 < said < 1 << 30:
        return said
    if values.get("use_scaled_rope") is True:
        return 131072
    if values.get("sliding_window"):
        return 32768
    if vocab == 128256:
        return 8192
    if theta == 1e6:
        return 16384  # Code Llama
    return 4096 if _number(params, "norm_eps", 1e-5) == 1e-5 else 2048


def _number(params: Params, key: str, default: float) -> float:
    value = params.values.get(key)
    value = default if value is None else value
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 < value < 1e12:
        raise CheckpointError(f"params.json: {key} is wrong", file=params.file, why=printable(repr(value)))
    return float(value)
