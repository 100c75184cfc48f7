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
from deploykit.engine.types import RunnerError

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
    if context is None:
        raise RunnerError("attention ran outside a step")
    layer: Layer = getattr(module, _LAYER)
    pool, batch = context.pool, context.batch
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    pool.write(layer.index, batch.write_index, _joined(key, value))
    if batch.uniform:  # every row has one token, and one group holds them all
        return _decode(batch.decodes[0], layer, pool, query, scale, softcap, s_aux).unsqueeze(0), None
    out = torch.empty(query.shape[2], query.shape[1], query.shape[3], dtype=query.dtype, device=query.device)
    for group in batch.decodes:
        part = slice(group.start, group.stop)
        out[part] = _decode(group, layer, pool, query[:, :, part], scale, softcap, s_aux)
    for chunk in batch.chunks:
        _prefill(chunk, layer, pool, query, key, value, out, scale, softcap, s_aux)
    return out.unsqueeze(0), None


def _joined(key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """[1, kv_heads, T, head_dim] twice -> [T * 2 * kv_heads, head_dim], a token's key heads before its value heads."""
    _, heads, tokens, head_dim = key.shape
    if (
        tokens == 1
        and key.stride(1) == head_dim
        and value.data_ptr() - key.data_ptr() == (heads * head_dim * key.element_size())
    ):
        return key.as_strided((2 * heads, head_dim), (head_dim, 1))  # parts of one product: nothing to join
    return torch.cat((key[0], value[0])).transpose(0, 1).reshape(-1, head_dim)


def _decode(
    group: DecodeGroup,
    layer: Layer,
    pool: KVPool,
    query: torch.Tensor,  # [1, heads, rows, head_dim]
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Rows with one token each. Returns [rows, heads, head_dim]."""
    shape = pool.shape
    _, heads, rows, head_dim = query.shape
    kv = pool.read(layer.index, group.read_index).view(2, rows, shape.kv_heads, -1, head_dim)
    grouped = query[0].transpose(0, 1).reshape(rows, shape.kv_heads, -1, head_dim)
    mask = group.mask(layer.window)  # [rows, 1, 1, S] or None
    return attend_decode(grouped, kv[0], kv[1], mask, scale, softcap, sinks).reshape(rows, heads, head_dim)


def _prefill(
    chunk: Chunk,
    layer: Layer,
    pool: KVPool,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,  # [T, heads, head_dim]
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> None:
    """One row's chunk of several tokens, over everything that the row has."""
    shape = pool.shape
    part = slice(chunk.start, chunk.stop)
    if chunk.context == 0:  # nothing before it: its own keys and values are all there is
        keys, values = key[0, :, part], value[0, :, part]
    else:
        kv = pool.read(layer.index, chunk.read_index).view(2, shape.kv_heads, -1, shape.head_dim)
        keys, values = kv[0, :, : chunk.length], kv[1, :, : chunk.length]
    mask = chunk.mask(layer.window)  # [n, length] or None where plain causal
    out[part] = attend(query[0, :, part], keys, values, mask, scale, softcap, sinks).transpose(0, 1)
