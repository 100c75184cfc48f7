"""A checkpoint of random weights in a real model's shape: what a benchmark needs where speed alone is measured."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from deploykit.errors import ConfigError

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "initializer_range": 0.02,
        "use_cache": True,
    },
}
# The smallest that holds the workloads' token ids: to try the suite itself.
_TINY: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 48128,
    "bos_token_id": 48000,
    "eos_token_id": 48001,
}
SHAPES["tiny"] = SHAPES["llama-3-8b"] | _TINY
# Mixtures of experts: Qwen3-30B-A3B and Mixtral-8x7B in every width, and the first six of Qwen3's 48 layers for a disk
# and a card that don't hold 61 GB of it in 16 bits.
SHAPES["qwen3-30b-a3b"] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "initializer_range": 0.02,
    "use_cache": True,
}
SHAPES["qwen3-30b-a3b-6-layers"] = SHAPES["qwen3-30b-a3b"] | {"num_hidden_layers": 6}
SHAPES["mixtral-8x7b"] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 48128,  # Mixtral's 32,000 don't hold the workloads' token ids
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "use_cache": True,
}
SHAPES["tiny-moe"] = (
    SHAPES["qwen3-30b-a3b"]
    | _TINY
    | {"moe_intermediate_size": 128, "num_experts": 8, "num_experts_per_tok": 2}
)
WEIGHTS = ("bf16", "awq")

GROUP = 128  # of AWQ
SHARD_BYTES = 2 << 30
BUFFER_BYTES = 128 << 20  # of random values; tensors are cut from it one after the other, around its end
PIECE = 1 << 22  # values made at once
# A uniform 4-bit value has a standard deviation of 4.6: scales of this size give weights of initializer_range.
INT4_DEVIATION = 4.6


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    kind: str  # which buffer: normal | bits | scale | one; or order: the group of each input, in order
    group: int = 1  # inputs, of kind order

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (4 if self.dtype in ("I32", "F32") else 2)


def write_dummy_checkpoint(folder: Path, shape: Mapping[str, Any], weights: str) -> Path:
    """Write a Llama, Mixtral or Qwen3-MoE of `shape` (a config.json) into `folder` and return it.

    Shards, index, config, tokenizer. `weights`: "bf16" (normal, of `initializer_range`), or "awq": 4 bits, groups of
    128, zero points, in AutoAWQ's gemm layout, with tables and norms in float16. Norms are ones. All of it is
    repeatable; the bytes of one tensor come back in others.
    Raises ConfigError where the disk is too small or the shape can't be quantized.
    """
    if weights not in WEIGHTS:
        raise ConfigError(
            f"there are no random weights of kind {weights!r}", fix=f"one of {', '.join(WEIGHTS)}"
        )
    write_tensors(folder, list(_tensors(shape, weights)), float(shape.get("initializer_range", 0.02)))
    config = {**shape, "torch_dtype": "bfloat16" if weights == "bf16" else "float16"}
    if weights == "awq":
        config["quantization_config"] = {
            "quant_method": "awq",
            "version": "gemm",
            "bits": 4,
            "group_size": GROUP,
            "zero_point": True,
        }
    write_json(folder / "config.json", config)
    write_tokenizer(folder, int(shape["vocab_size"]))
    return folder


def write_tensors(folder: Path, tensors: list[Tensor], deviation: float) -> None:
    """Shards of random values and their index, into `folder`. Raises ConfigError where the disk is too small."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(t.nbytes for t in tensors)
    free = shutil.disk_usage(folder).free
    if total > free:
        raise ConfigError(
            f"the random weights take {total / 1e9:.1f} GB",
            where=str(folder),
            why=f"{free / 1e9:.1f} GB are free there",
            fix="name a folder with room in TMPDIR (/dev/shm where memory allows)",
        )
    source = _Source(tensors, deviation)
    shards = _shards(tensors)
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        with (folder / name).open("wb") as f:
            _write_shard(f, shard, source)
        weight_map |= {t.name: name for t in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def _tensors(shape: Mapping[str, Any], weights: str) -> Iterator[Tensor]:
    hidden, vocab = shape["hidden_size"], shape["vocab_size"]
    q = shape["num_attention_heads"] * shape["head_dim"]
    kv = shape["num_key_value_heads"] * shape["head_dim"]
    plain = "BF16" if weights == "bf16" else "F16"
    linears = {  # name -> (out, in)
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
    } | _mlp_linears(shape)
    vectors = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    if shape["model_type"] == "qwen3_moe":
        vectors |= {"self_attn.q_norm": shape["head_dim"], "self_attn.k_norm": shape["head_dim"]}
    router = {"qwen3_moe": "mlp.gate", "mixtral": "block_sparse_moe.gate"}.get(shape["model_type"])
    yield Tensor("model.embed_tokens.weight", plain, (vocab, hidden), "normal")
    for i in range(shape["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, size in vectors.items():
            yield Tensor(f"{layer}{name}.weight", plain, (size,), "one")
        if router is not None:  # never quantized
            yield Tensor(f"{layer}{router}.weight", plain, (_experts(shape), hidden), "normal")
        for name, (rows, cols) in linears.items():
            if weights == "bf16":
                yield Tensor(f"{layer}{name}.weight", plain, (rows, cols), "normal")
                continue
            if cols % GROUP or rows % 8:
                why = f"{name} is {rows} x {cols}; groups are of {GROUP} columns, and words of 8 rows"
                raise ConfigError("this shape can't be quantized", why=why)
            yield Tensor(f"{layer}{name}.qweight", "I32", (cols, rows // 8), "bits")
            yield Tensor(f"{layer}{name}.qzeros", "I32", (cols // GROUP, rows // 8), "bits")
            yield Tensor(f"{layer}{name}.scales", "F16", (cols // GROUP, rows), "scale")
    yield Tensor("model.norm.weight", plain, (hidden,), "one")
    if not shape.get("tie_word_embeddings"):
        yield Tensor("lm_head.weight", plain, (vocab, hidden), "normal")


def _experts(shape: Mapping[str, Any]) -> int:
    return int(shape.get("num_experts") or shape.get("num_local_experts") or 0)


def _mlp_linears(shape: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """A layer's gate, up and down matrices, of each expert where there are experts: name -> (out, in)."""
    hidden, inter = shape["hidden_size"], shape.get("moe_intermediate_size", shape["intermediate_size"])
    module, gate, up, down = "mlp", "gate_proj", "up_proj", "down_proj"
    if shape["model_type"] == "mixtral":
        module, gate, up, down = "block_sparse_moe", "w1", "w3", "w2"
    each = {gate: (inter, hidden), up: (inter, hidden), down: (hidden, inter)}
    prefixes = [f"{module}.experts.{e}" for e in range(_experts(shape))] or [module]
    return {f"{prefix}.{name}": size for prefix in prefixes for name, size in each.items()}


def _shards(tensors: list[Tensor]) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards


class _Source:
    """One buffer a kind of value; a tensor begins where the one before has ended, so that no two layers are alike."""

    def __init__(self, tensors: list[Tensor], deviation: float) -> None:
        self._deviation = deviation
        self._rng = np.random.default_rng(0)
        self._buffers: dict[tuple[str, str], memoryview] = {}
        self._at: dict[tuple[str, str], int] = {}
        for kind, dtype in dict.fromkeys((t.kind, t.dtype) for t in tensors if t.kind != "order"):
            size = min(BUFFER_BYTES, sum(t.nbytes for t in tensors if (t.kind, t.dtype) == (kind, dtype)))
            values = self._make(kind, dtype, -(-size // 2))
            self._buffers[kind, dtype] = values.data.cast("B")
            self._at[kind, dtype] = 0

    def write(self, f: BinaryIO, tensor: Tensor) -> None:
        if tensor.kind == "order":
            f.write((np.arange(math.prod(tensor.shape), dtype=np.int32) // tensor.group).data)
            return
        key = (tensor.kind, tensor.dtype)
        buffer, at, left = self._buffers[key], self._at[key], tensor.nbytes
        while left:
            piece = buffer[at : at + left]
            f.write(piece)
            left -= len(piece)
            at = (at + len(piece)) % len(buffer)
        self._at[key] = at

    def _make(self, kind: str, dtype: str, count: int) -> npt.NDArray[np.uint16]:
        """`count` values of two bytes each, or half as many of four."""
        if kind == "bits":
            return np.frombuffer(bytearray(self._rng.bytes(2 * (count + count % 2))), dtype=np.uint16)
        width = 2 if dtype == "F32" else 1
        made = np.empty(count + count % width, dtype=np.uint16)
        for start in range(0, len(made), PIECE):
            size = min(PIECE, len(made) - start) // width
            if kind == "normal":
                values = self._rng.standard_normal(size, dtype=np.float32) * np.float32(self._deviation)
            elif kind == "scale":
                middle = self._deviation / INT4_DEVIATION
                values = (
                    self._rng.random(size, dtype=np.float32) * np.float32(0.5) + np.float32(0.75)
                ) * np.float32(middle)
            else:
                values = np.ones(size, dtype=np.float32)
            made[start : start + size * width] = _bits_of(values, dtype)
        return made


def _bits_of(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.uint16]:
    if dtype == "F32":
        return values.view(np.uint16)
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    return ((values.view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)).astype(np.uint16)


def _write_shard(f: BinaryIO, tensors: list[Tensor], source: _Source) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for t in tensors:
        header[t.name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [end, end + t.nbytes]}
        end += t.nbytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 64)  # the data begins on a boundary of 8 bytes, whatever reads it
    f.write(struct.pack("<Q", len(raw)) + raw)
    for t in tensors:
        source.write(f, t)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A token a byte, and a word for every other id, so that whatever the model says is text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(alphabet)}
    vocab |= {f"<{i}>": i for i in range(len(alphabet), vocab_size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    # Without a chat template a model isn't served, and this one was tuned on none.
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))
