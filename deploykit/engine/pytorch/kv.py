"""KV memory: one pool of pages. A page (block) is one contiguous byte range over all layers.

Layout: [num_blocks, layers, 2, kv_heads, block_len, head_dim], 2 = keys, values. So copying a block is one copy, and
what a layer reads of a block is, per head, one contiguous run of `block_len * head_dim` elements.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class KVShape(NamedTuple):
    """What one model needs of a block."""

    layers: int
    kv_heads: int
    head_dim: int
    block_len: int

    @property
    def elements(self) -> int:
        """Elements of one block."""
        return self.layers * 2 * self.kv_heads * self.block_len * self.head_dim


class KVPool:
    """The pool and its two views: by token for writing, by run for reading."""

    def __init__(self, shape: KVShape, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self.num_blocks = num_blocks
        # zeros written, not lazily mapped: the memory that the plan counts is really there
        self.data = torch.empty(num_blocks, shape.elements, dtype=dtype, device=device).fill_(0)
        self.block_bytes = shape.elements * self.data.element_size()
        tokens = self.data.view(-1, shape.head_dim)  # one row a (block, layer, k|v, head, offset)
        runs = self.data.view(-1, shape.block_len * shape.head_dim)  # one row a (block, layer, k|v, head)
        per_layer = 2 * shape.kv_heads
        # A layer's rows are those of layer 0 moved by a constant: the same indices serve every layer's view.
        self._tokens = [tokens[layer * per_layer * shape.block_len :] for layer in range(shape.layers)]
        self._runs = [runs[layer * per_layer :] for layer in range(shape.layers)]
        heads = torch.arange(per_layer, device=device)
        self._heads = heads  # [2 * kv_heads]: keys' heads, then values'

    def token_index(self, blocks: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Where tokens are written: int64[n] blocks and offsets in them -> int64[n * 2 * kv_heads]."""
        shape = self.shape
        head = blocks[:, None] * (shape.layers * 2 * shape.kv_heads) + self._heads
        return (head * shape.block_len + offsets[:, None]).view(-1)

    def run_index(self, blocks: torch.Tensor) -> torch.Tensor:
        """Where whole blocks are read: int64[rows, n] -> int64[2 * rows * kv_heads * n]."""
        shape = self.shape
        base = blocks * (shape.layers * 2 * shape.kv_heads)
        heads = self._heads.view(2, 1, shape.kv_heads, 1)
        return (base[None, :, None, :] + heads).view(-1)

    def write(self, layer: int, index: torch.Tensor, keys_values: torch.Tensor) -> None:
        """Store [n * 2 * kv_heads, head_dim] at `token_index`'s places."""
        self._tokens[layer].index_copy_(0, index, keys_values)

    def read(self, layer: int, index: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Whole blocks [2 * rows * kv_heads * n, block_len * head_dim] from `run_index`'s places."""
        return torch.index_select(self._runs[layer], 0, index, out=out)

    def copy(self, src: int, dst: int) -> None:
        """Copy a whole block, over all layers."""
        self.data[dst].copy_(self.data[src])

    def scrub(self, blocks: list[int]) -> None:
        """Zero those of `blocks` that hold a number that is not finite: it would spread to the block's next owner."""
        for block in blocks:
            if not bool(torch.isfinite(self.data[block]).all()):
                self.data[block].zero_()
