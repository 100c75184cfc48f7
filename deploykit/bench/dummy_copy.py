"""A checkpoint's shape with random weights: every tensor of its headers, by name and dtype, without its values."""

from __future__ import annotations

from pathlib import Path

from deploykit.bench.dummy import Tensor, write_json, write_tensors, write_tokenizer
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.errors import ConfigError

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "int32": "I32"}
_PACKED = ("awq", "gptq", "gptqmodel")  # what is made of int32 words and scales


def write_dummy_copy(folder: Path, facts: Facts) -> Path:
    """Write what `facts` describes into `folder`, of random values, and return it: shards, index, config, tokenizer.

    Matrices are normal with the config's `initializer_range`, vectors ones, packed words random bits; the values are
    those of no model, so speed and memory alone can be measured. `facts` may come from headers or a description.
    Raises ConfigError for GGUF and for tensors whose dtype isn't made, and where the disk is too small.
    """
    method = facts.quant_method
    if facts.format != "safetensors" or (method is not None and method not in _PACKED):
        raise ConfigError(
            f"random weights aren't made of a checkpoint in {facts.layout}",
            where=facts.path,
            why="they are made for plain safetensors, AWQ and GPTQ",
            fix="its real weights (--load-format auto), or a variant in another format",
        )
    group = facts.quantization.group_size if facts.quantization is not None else None
    tensors = [_tensor(info, group or 128, facts) for info in facts.tensors]
    write_tensors(folder, tensors, float(facts.config.get("initializer_range") or 0.02))
    write_json(folder / "config.json", facts.config)
    write_tokenizer(folder, facts.vocab_size)
    return folder


def _tensor(info: TensorInfo, group: int, facts: Facts) -> Tensor:
    dtype = _DTYPES.get(info.dtype)
    if dtype is None:
        raise ConfigError(
            f"random weights aren't made in {info.dtype}",
            where=f"{facts.path}: {info.name}",
            why=f"they are made in {', '.join(_DTYPES)}",
            fix="its real weights (--load-format auto), or a variant in another format",
        )
    leaf = info.name.rpartition(".")[2]
    if leaf == "g_idx":
        return Tensor(info.name, dtype, info.shape, "order", group)
    if dtype == "I32":
        return Tensor(info.name, dtype, info.shape, "bits")
    if leaf == "scales":
        return Tensor(info.name, dtype, info.shape, "scale")
    return Tensor(info.name, dtype, info.shape, "normal" if len(info.shape) > 1 or leaf == "bias" else "one")
