"""Attention over gathered keys and values, in torch operators.

Grouped heads stay grouped: queries that share a key head are one block, so keys and values are never repeated.
Soft-capping and sinks change the scores themselves and take the plain path (`_plain`), float32 throughout.
"""

from __future__ import annotations

import torch
from torch.nn import functional

_FLASH_ROWS = (
    4  # decode rows up to which the CPU's flash kernel is the faster one (measured: docs/engines.md)
)
_PLAIN_QUERIES = 128  # queries at once on the plain path: bounds its scores to heads * 128 * length


def attend_decode(
    query: torch.Tensor,  # [rows, kv_heads, group, head_dim]
    key: torch.Tensor,  # [rows, kv_heads, S, head_dim]
    value: torch.Tensor,  # [rows, kv_heads, S, head_dim]
    mask: torch.Tensor | None,  # [rows, 1, 1, S], 0 or -inf
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,  # [heads]
) -> torch.Tensor:
    """One query token a row. Returns [rows, kv_heads, group, head_dim]."""
    if softcap is not None or sinks is not None:
        bias = None if sinks is None else sinks.view(1, query.shape[1], query.shape[2], 1)
        return _plain(query, key, value, mask, scale, softcap, bias)
    if query.device.type == "cpu" and query.shape[0] > _FLASH_ROWS:
        return _decode_products(query, key, value, mask, scale)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def _decode_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Decode attention as two batched products: for many rows about twice as fast as the CPU's flash kernel.

    In 16 bits the scores are rounded between the products (as transformers' eager attention rounds them).
    """
    rows, kv_heads, group, head_dim = query.shape
    batch = rows * kv_heads
    keys = key.reshape(batch, -1, head_dim).transpose(1, 2)
    queries = query.reshape(batch, group, head_dim)
    if mask is None:
        scores = torch.bmm(queries, keys).mul_(scale)
    else:
        bias = mask.expand(rows, kv_heads, 1, -1).reshape(batch, 1, -1)
        scores = torch.baddbmm(bias, queries, keys, alpha=scale)
    weights = torch.softmax(scores, dim=-1)
    return torch.bmm(weights, value.reshape(batch, -1, head_dim)).view(rows, kv_heads, group, head_dim)


def attend(
    query: torch.Tensor,  # [heads, n, head_dim]
    key: torch.Tensor,  # [kv_heads, S, head_dim]
    value: torch.Tensor,  # [kv_heads, S, head_dim]
    mask: torch.Tensor | None,  # [n, S], 0 or -inf; None = causal with n == S
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,  # [heads]
) -> torch.Tensor:
    """One row's chunk. Returns [heads, n, head_dim]."""
    kv_heads = key.shape[0]
    heads, count, head_dim = query.shape
    group = heads // kv_heads
    # the group is the batch: keys and values are shared by a stride of 0
    grouped = query.reshape(kv_heads, group, count, head_dim).transpose(
        0, 1
    )  # [group, kv_heads, n, head_dim]
    keys = key.unsqueeze(0).expand(group, -1, -1, -1)
    values = value.unsqueeze(0).expand(group, -1, -1, -1)
    if softcap is None and sinks is None:
        result = functional.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale
        )
    else:
        if mask is None:
            mask = causal_mask(0, count, None, query.dtype, query.device)
        bias = None if sinks is None else sinks.view(kv_heads, group).t().unsqueeze(-1).unsqueeze(-1)
        result = torch.cat(
            [
                _plain(
                    grouped[:, :, at : at + _PLAIN_QUERIES],
                    keys,
                    values,
                    mask[at : at + _PLAIN_QUERIES],
                    scale,
                    softcap,
                    bias,
                )
                for at in range(0, count, _PLAIN_QUERIES)
            ],
            dim=2,
        )
    return result.transpose(0, 1).reshape(heads, count, head_dim)


def _plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention as it is written down; `sinks` broadcasts to a score column that takes part in the softmax only."""
    scores = torch.matmul(query.float(), key.float().transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        column = sinks.float().expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, column), dim=-1)
    weights = torch.softmax(scores, dim=-1)
    if sinks is not None:
        weights = weights[..., :-1]
    return torch.matmul(weights, value.float()).to(query.dtype)


def causal_mask(
    context: int, count: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """[count, context + count]: 0 where query `context + i` sees the key, else -inf."""
    queries = torch.arange(context, context + count, device=device)[:, None]
    keys = torch.arange(context + count, device=device)[None, :]
    seen = keys <= queries
    if window is not None:
        seen &= keys > queries - window
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))
