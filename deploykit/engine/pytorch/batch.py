"""One forward's input: the step's tokens flattened, and where their keys and values are.

Tokens of rows that advance by one come first (they are computed together), longer chunks follow, one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from deploykit.engine.pytorch.kernels import causal_mask
from deploykit.engine.pytorch.kv import KVPool
from deploykit.engine.pytorch.rows import RowTable

Int64Array = npt.NDArray[np.int64]
# Rows are computed together where the shortest has at least half of the longest one's blocks: padding costs at most
# as much as the work itself.
_PADDING = 2


class DecodeGroup:
    """Rows `[start, stop)` of the batch with one token each, padded to the longest of them."""

    def __init__(self, start: int, lengths: Int64Array, blocks: Int64Array, pool: KVPool) -> None:
        self.start = start
        self.stop = start + len(lengths)
        device = pool.data.device
        self.read_index = pool.run_index(torch.from_numpy(blocks).to(device))
        self._lengths = lengths
        self._padded = blocks.shape[1] * pool.shape.block_len
        self._dtype, self._device = pool.data.dtype, device
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def mask(self, window: int | None) -> torch.Tensor | None:
        """[rows, 1, 1, S] of 0 and -inf; None where every row sees all of it. The same for every layer of a kind."""
        if window not in self._masks:
            self._masks[window] = self._make_mask(window)
        return self._masks[window]

    def _make_mask(self, window: int | None) -> torch.Tensor | None:
        keys = np.arange(self._padded)[None, :]
        lengths = self._lengths[:, None]
        hidden = keys >= lengths
        if window is not None:
            hidden |= keys < lengths - window
        if not hidden.any():
            return None
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(torch.from_numpy(hidden).to(self._device), float("-inf"))
        return mask[:, None, None, :]


class Chunk:
    """Several tokens of one row: tokens `[start, stop)` of the batch, after `context` computed ones."""

    def __init__(self, start: int, count: int, context: int, blocks: Int64Array, pool: KVPool) -> None:
        self.start = start
        self.stop = start + count
        self.context = context
        self.length = context + count
        self._dtype, self._device = pool.data.dtype, pool.data.device
        self.read_index = pool.run_index(torch.from_numpy(blocks[None, :]).to(self._device))
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def mask(self, window: int | None) -> torch.Tensor | None:
        """[n, length] of 0 and -inf; None where the chunk is the whole row and its window hides nothing."""
        if window is not None and window >= self.length:
            window = None
        if window is None and self.context == 0:
            return None
        if window not in self._masks:
            self._masks[window] = causal_mask(
                self.context, self.stop - self.start, window, self._dtype, self._device
            )
        return self._masks[window]


class Batch:
    """The input of one forward over `rows`, `counts[i]` tokens each.

    `order[i]` is the place of the caller's i-th row in the batch; `last[i]` the index of its last token.
    """

    def __init__(self, table: RowTable, pool: KVPool, rows: Sequence[int], counts: Sequence[int]) -> None:
        at = np.asarray(rows, dtype=np.int64)
        count = np.asarray(counts, dtype=np.int64)
        context = table.computed[at].astype(np.int64)
        block_len = pool.shape.block_len
        self.chunks: list[Chunk] = []
        self.decodes: list[DecodeGroup] = []

        single = np.flatnonzero(count == 1)
        single = single[np.argsort(context[single], kind="stable")]
        several = np.flatnonzero(count > 1)
        self.order = np.concatenate([single, several])
        ends = np.cumsum(count[self.order])
        self.num_tokens = int(ends[-1])
        self.first = np.empty(len(at), dtype=np.int64)
        self.last = np.empty(len(at), dtype=np.int64)
        self.first[self.order] = ends - count[self.order]
        self.last[self.order] = ends - 1

        # positions of every token, and the row each belongs to
        owner = np.repeat(self.order, count[self.order])
        positions = np.arange(self.num_tokens) - self.first[owner] + context[owner]
        token_rows = at[owner]
        blocks = table.blocks[token_rows, positions // block_len].astype(np.int64)
        device = pool.data.device
        ids = table.tokens[token_rows, positions].astype(np.int64)
        self.input_ids = torch.from_numpy(ids).to(device).unsqueeze(0)
        self.position_ids = torch.from_numpy(positions).to(device).unsqueeze(0)
        self.write_index = pool.token_index(
            torch.from_numpy(blocks).to(device), torch.from_numpy(positions % block_len).to(device)
        )

        lengths = context + count
        needed = -(-lengths // block_len)
        start = 0
        while start < len(single):
            # sorted by length: the group ends where a row is more than twice as long as its first
            limit = _PADDING * needed[single[start]]
            stop = int(np.searchsorted(needed[single], limit, side="right"))
            members = single[start:stop]
            width = int(needed[members[-1]])
            table_part = table.blocks[at[members], :width].astype(np.int64)
            # Beyond a row's own blocks all is masked: its first block stands there, never another row's, whose
            # faults (a NaN in a key) a mask does not hide.
            beyond = np.arange(width)[None, :] >= needed[members][:, None]
            table_part = np.where(beyond, table_part[:, :1], table_part)
            self.decodes.append(DecodeGroup(start, lengths[members], table_part, pool))
            start = stop
        for i in several:
            row_blocks = table.blocks[at[i], : needed[i]].astype(np.int64)
            self.chunks.append(Chunk(int(self.first[i]), int(count[i]), int(context[i]), row_blocks, pool))
        self.uniform = not self.chunks and len(self.decodes) == 1
