"""A GGUF's tensors under Hugging Face's names: all that the config asks for, in its shapes, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import TensorInfo
from deploykit.checkpoint.ggml_types import READABLE
from deploykit.checkpoint.gguf import GgufTensor
from deploykit.checkpoint.gguf_families import ALTERNATE_TRANSPOSED, TRANSPOSED, Part
from deploykit.checkpoint.gguf_rope import rope_tensors
from deploykit.checkpoint.gguf_source import Source

MAX_TENSORS = 1 << 20  # of all layers, experts counted one by one
_EACH = re.compile(r"\{(experts|heads|kv_heads)\}")
_LEGACY_EXPERT = re.compile(r"blk\.\d{1,5}\.ffn_(gate|up|down)\.\d{1,5}\.weight")


def map_tensors(source: Source, config: dict[str, Any]) -> tuple[TensorInfo, ...]:
    """In the order of the file. Raises CheckpointError for a tensor that is missing, unknown, misshapen or of a
    type that isn't read."""
    expected = dict(_expected(source, config))
    aside = rope_tensors(source.family)
    found: list[TensorInfo] = []
    for t in source.tensors.values():
        if t.name in aside:
            continue
        if t.name not in expected:
            raise _unknown(source, t)
        found += _place(source, t, *expected.pop(t.name))
        if len(found) > MAX_TENSORS:
            raise CheckpointError(f"the model has more than {MAX_TENSORS} tensors", file=source.path)
    if expected:
        why = f"{len(expected)} are missing: {', '.join(list(expected)[:3])}"
        raise CheckpointError("tensors of the model are missing", file=source.path, why=why)
    return tuple(found)


def sizes(config: dict[str, Any]) -> dict[str, int]:
    """The numbers of the names that shapes are written in."""
    heads, kv_heads, head = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    inner = config["intermediate_size"]
    return {
        "one": 1,
        "vocab": config["vocab_size"],
        "hidden": config["hidden_size"],
        "positions": config["max_position_embeddings"],
        "heads": heads,
        "kv_heads": kv_heads,
        "head": head,
        "q": heads * head,
        "kv": kv_heads * head,
        "qkv": (heads + 2 * kv_heads) * head,
        "inner": inner,
        "two_inner": 2 * inner,
        "experts": config.get("num_experts") or config.get("num_local_experts") or 0,
        "expert_inner": config.get("moe_intermediate_size", inner),
        "shared_inner": config.get("shared_expert_intermediate_size", 0),
    }


Expected = tuple[
    str, tuple[int, ...], int, str
]  # Hugging Face's name, shape in the file, how many it holds, layout


def _expected(source: Source, config: dict[str, Any]) -> Iterator[tuple[str, Expected]]:
    """(ggml's name, what it must be) of every tensor that the config asks for."""
    numbers = sizes(config)
    flags = {
        **config,
        "untied": not config["tie_word_embeddings"],
        "sequential": not config.get("use_parallel_residual"),
    }
    family = source.family
    for name, part in family.top.items():
        yield from _leaves(name, part.hf, part, numbers, flags)
    for i in range(config["num_hidden_layers"]):
        prefix = family.layer_prefix.format(i=i)
        for name, part in family.layer.items():
            yield from _leaves(f"blk.{i}.{name}", prefix + part.hf, part, numbers, flags)


def _leaves(
    name: str, hf: str, part: Part, numbers: dict[str, int], flags: dict[str, Any]
) -> Iterator[tuple[str, Expected]]:
    if part.when and not flags.get(part.when):
        return
    shape = tuple(numbers[size] for size in part.shape)
    each = _EACH.search(hf)
    count = numbers[each[1]] if each else 0
    end, bias_end = part.ends
    yield f"{name}.{part.leaf}", (hf + end, (count, *shape) if each else shape, count, part.layout)
    if part.bias == "yes" or (part.bias and flags.get(part.bias)):
        yield f"{name}.bias", (hf + bias_end, shape[:-1] or shape, 0, part.bias_layout)


def _place(
    source: Source, t: GgufTensor, hf: str, shape: tuple[int, ...], count: int, layout: str
) -> list[TensorInfo]:
    """The Hugging Face tensors that one tensor of the file holds: mostly one; of experts, one each."""
    if t.shape != shape and (t.shape != shape[1:] or shape[0] != 1):
        why = f"its shape is {t.shape}, the metadata asks for {shape}"
        raise CheckpointError("a tensor has the wrong shape", file=source.path, tensor=t.name, why=why)
    if t.type.name not in READABLE:
        raise CheckpointError(
            f"the tensor type {t.type.name} isn't supported",
            file=source.path,
            tensor=t.name,
            why="supported: " + ", ".join(READABLE),
            fix="take another file of the model, such as its Q8_0 or F16 one",
        )
    if len(t.shape) == 1 and len(shape) == 1 and t.type.block > 1:
        raise CheckpointError(f"a {t.type.name} vector isn't supported", file=source.path, tensor=t.name)
    dtype, file = READABLE[t.type.name], t.file or source.path.name
    if not count:
        final = (*shape[:-2], shape[-1], shape[-2]) if layout in (TRANSPOSED, ALTERNATE_TRANSPOSED) else shape
        return [TensorInfo(hf, final, dtype, t.nbytes, file, t.offset, layout)]
    size = t.nbytes // count  # the outermost dimension: each one's bytes lie together
    return [
        TensorInfo(_EACH.sub(str(i), hf), shape[1:], dtype, size, file, t.offset + i * size, layout)
        for i in range(count)
    ]


def _unknown(source: Source, t: GgufTensor) -> CheckpointError:
    if _LEGACY_EXPERT.fullmatch(t.name):
        why = "experts in tensors of their own, as converters wrote them until 2024"
        fix = "convert the model again with a current converter"
        return CheckpointError(
            "this layout of experts isn't supported", file=source.path, tensor=t.name, why=why, fix=fix
        )
    what = f"{source.family.architecture.removesuffix('ForCausalLM')} has no such tensor"
    return CheckpointError(what, file=source.path, tensor=t.name)
