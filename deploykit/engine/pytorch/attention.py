"""Paged attention behind transformers' attention interface.

The model's layers call `paged_attention` with the step's tokens flattened to [1, heads, T, head_dim]. What the step is
(which rows, where their blocks are) stands in a module-level context that the runner sets before the forward; what the
layer is stands on its module (`attach`). Keys and values are stored before they are read, so a token sees itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from deploykit.engine.pytorch.batch import Batch, Chunk, DecodeGroup
from deploykit.engine.pytorch.kernels import attend, attend_decode
from deploykit.engine.pytorch.kv import KVPool

IMPLEMENTATION = "deploykit_paged"  # the name in transformers' registry
_LAYER = "_deploykit_attention"


@dataclass(frozen=True, slots=True)
class Layer:
    """One attention layer, attached to its module."""

    index: int
    window: int | None  # tokens a query sees, itself included; None = all


@dataclass(slots=True)
class Context:
    """The step that runs now."""

    pool: KVPool
    batch: Batch


class Observer(Protocol):
    """Stands in for the context while a model is examined (`inspect.py`)."""

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        arguments: dict[str, Any],
    ) -> torch.Tensor: ...


_context: Context | None = None
_observer: Observer | None = None


@contextmanager
def running(context: Context) -> Iterator[None]:
    """The forward inside this block belongs to this step."""
    global _context
    _context = context
    try:
        yield
    finally:
        _context = None


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Attention calls inside this block go to `observer`."""
    global _observer
    _observer = observer
    try:
        yield
    finally:
        _observer = None


def attach(module: nn.Module, layer: Layer) -> None:
    """Tell an attention module which layer it is."""
    setattr(module, _LAYER, layer)


def paged_attention(
    module: nn.Module,
    query: torch.Tensor,  # [1, heads, T, head_dim]
    key: torch.Tensor,  # [1, kv_heads, T, head_dim]
    value: torch.Tensor,  # [1, kv_heads, T, head_dim]
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: returns [1, T, heads, head_dim]."""
    if _observer is not None:
        arguments.update(scaling=scaling, softcap=softcap, s_aux=s_aux)
        return _observer(module, query, key, value, attention_mask, arguments), None
    context = _context
    assert context is not None, "attention ran outside a step"
    layer: Layer = getattr(module, _LAYER)
    pool, batch = context.pool, context.batch
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads, tokens, head_dim = query.shape[1:]
    queries = query[0].transpose(0, 1)  # [T, heads, head_dim]
    keys = key[0].transpose(0, 1)
    values = value[0].transpose(0, 1)
    pool.write(layer.index, batch.write_index, _join(keys, values))

    out = torch.empty(tokens, heads, head_dim, dtype=query.dtype, device=query.device)
    for group in batch.decodes:
        _decode(group, layer, pool, queries, out, scale, softcap, s_aux)
    for chunk in batch.chunks:
        _prefill(chunk, layer, pool, queries, keys, values, out, scale, softcap, s_aux)
    return out.unsqueeze(0), None


def _join(keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """[T, kv_heads, head_dim] twice -> [T * 2 * kv_heads, head_dim], keys' heads before values'."""
    return torch.cat((keys, values), dim=1).view(-1, keys.shape[-1])


def _decode(
    group: DecodeGroup,
    layer: Layer,
    pool: KVPool,
    queries: torch.Tensor,
    out: torch.Tensor,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> None:
    """Rows with one token each: [rows] at once."""
    shape = pool.shape
    rows = group.stop - group.start
    kv = pool.read(layer.index, group.read_index).view(2, rows, shape.kv_heads, -1, shape.head_dim)
    query = queries[group.start : group.stop].reshape(rows, shape.kv_heads, -1, shape.head_dim)
    mask = group.mask(layer.window)  # [rows, 1, 1, S] or None
    result = attend_decode(query, kv[0], kv[1], mask, scale, softcap, sinks)
    out[group.start : group.stop] = result.view(rows, -1, shape.head_dim)


def _prefill(
    chunk: Chunk,
    layer: Layer,
    pool: KVPool,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> None:
    """One row's chunk of several tokens, over everything that the row has."""
    shape = pool.shape
    query = queries[chunk.start : chunk.stop].transpose(0, 1)  # [heads, n, head_dim]
    if chunk.context == 0:  # nothing before it: its own keys and values are all there is
        key = keys[chunk.start : chunk.stop].transpose(0, 1)
        value = values[chunk.start : chunk.stop].transpose(0, 1)
    else:
        kv = pool.read(layer.index, chunk.read_index).view(2, shape.kv_heads, -1, shape.head_dim)
        key, value = kv[0, :, : chunk.length], kv[1, :, : chunk.length]
    mask = chunk.mask(layer.window)  # [n, length] or None where plain causal
    result = attend(query, key, value, mask, scale, softcap, sinks)  # [heads, n, head_dim]
    out[chunk.start : chunk.stop] = result.transpose(0, 1)
