"""Parts of a Llama in Meta's layout merged into one; for the process of `unpickle.py` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.layouts import pair_rows
from deploykit.checkpoint.meta_llama import Entry, entry_of
from deploykit.checkpoint.unpickle_write import DTYPES, Shapes, Writer, shard_name, write_index

SHARD_BYTES = 5 << 30
Parts = list[dict[str, torch.Tensor]]
_NEEDED = ("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.gate_proj.weight")


class Whole(NamedTuple):
    """A tensor of the merged model."""

    source: str  # its name in the parts
    entry: Entry
    shape: tuple[int, ...]
    axis: int | None  # along which the parts lie side by side; None: each part holds all of it


def merge(
    files: list[Path], parts: Parts, params: dict[str, int], nbytes: int, out: Path, say: Callable[..., None]
) -> dict[str, Any]:
    """Write the merged model, rows of Q and K in Hugging Face's order. What config.json needs of it.

    `params` has hidden, heads, kv_heads and head_dim. Raises CheckpointError that names file and tensor.
    """
    plan = _plan(files, parts, params)
    shapes: Shapes = {}
    for name, whole in plan.items():
        tensor = parts[0][whole.source]
        shapes[name] = (
            DTYPES[str(tensor.dtype)],
            whole.shape,
            math.prod(whole.shape) * tensor.element_size(),
        )
    total = sum(size for _, _, size in shapes.values())
    if total > 2 * nbytes:
        raise CheckpointError(
            "the tensors claim more than the files hold", file=files[0], why=f"{total} bytes"
        )
    shards = list(_shards(shapes))
    writer = Writer(out, total, say)
    weight_map: dict[str, str] = {}
    for index, names in enumerate(shards):
        file = shard_name(index, len(shards))
        merged = ((name, _merged(parts, plan[name], params["head_dim"])) for name in names)
        writer.write(file, merged, {name: shapes[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        write_index(out, weight_map, total)
    return {
        "tensors": len(plan),
        "bytes": total,
        "vocab": plan["model.embed_tokens.weight"].shape[0],
        "inner": plan["model.layers.0.mlp.gate_proj.weight"].shape[0],
        "dtype": str(parts[0]["norm.weight"].dtype).removeprefix("torch."),
        "tied": "lm_head.weight" not in plan,
    }


def _plan(files: list[Path], parts: Parts, params: dict[str, int]) -> dict[str, Whole]:
    plan: dict[str, Whole] = {}
    for name in parts[0]:
        try:
            entry = entry_of(name)
        except KeyError:
            raise CheckpointError("Llama has no such tensor", file=files[0], tensor=name) from None
        if entry is not None:
            plan[entry.name] = _whole(files, parts, params, name, entry)
    for path, part in zip(files, parts, strict=True):
        odd = next((name for name in part if name not in parts[0]), None)
        if odd is not None:
            raise CheckpointError("the parts don't hold the same tensors", file=path, tensor=odd)
    missing = next((name for name in _NEEDED if name not in plan), None)
    if missing is not None:
        raise CheckpointError("a tensor of the model is missing", file=files[0], tensor=missing)
    return plan


def _whole(files: list[Path], parts: Parts, params: dict[str, int], name: str, entry: Entry) -> Whole:
    first, hidden = parts[0][name], params["hidden"]
    for path, part in zip(files, parts, strict=True):
        found = part.get(name)
        if found is None or found.shape != first.shape or found.dtype != first.dtype:
            raise CheckpointError("the parts of a tensor don't go together", file=path, tensor=name)
    shape = list(first.shape)
    dims = 1 if entry.cut == "whole" else 2
    axis = _axis(entry, shape, hidden, len(parts)) if len(shape) == dims else None
    if axis is not None:
        shape[axis] *= len(parts)
    heads = {"q": params["heads"], "kv": params["kv_heads"]}.get(entry.heads)
    rows = None if heads is None else heads * params["head_dim"]
    if len(shape) != dims or hidden not in shape or (rows is not None and rows != shape[0]):
        why = f"its shape is {tuple(shape)} over {len(parts)} parts, and params.json says dim {hidden}"
        raise CheckpointError("a tensor has the wrong shape", file=files[0], tensor=name, why=why)
    return Whole(name, entry, tuple(shape), axis)


def _axis(entry: Entry, shape: list[int], hidden: int, count: int) -> int | None:
    if entry.cut == "whole" or count == 1:
        return None
    if entry.cut == "embedding":  # by columns until Llama 3, by rows since
        return 0 if shape[1] == hidden else 1
    return 0 if entry.cut == "rows" else 1


def _merged(parts: Parts, whole: Whole, head_dim: int) -> torch.Tensor:
    tensors = [part[whole.source] for part in parts]
    tensor = tensors[0] if whole.axis is None else torch.cat(tensors, dim=whole.axis)
    return tensor[torch.from_numpy(pair_rows(whole.shape[0], head_dim))] if whole.entry.heads else tensor


def _shards(shapes: Shapes) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, (_, _, nbytes) in shapes.items():
        if names and size + nbytes > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += nbytes
    yield names
