"""The fake runner's KV memory: a token's "keys and values" are its id, kept in blocks and read back from them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from deploykit.engine.types import Int32Array, RunnerError

POISON = -0x5EAD  # no token id
ENTRY_BYTES = 4  # one int32 a token


class FakeKV:
    """`num_blocks` blocks of `block_len` token ids.

    With `check`, blocks are poisoned when they change hands, and a row that may not write to a block or reads
    something else than its own tokens is told so.
    """

    def __init__(self, num_blocks: int, block_len: int, *, check: bool) -> None:
        self.block_len = block_len
        self.check = check
        self._blocks = np.full((num_blocks, block_len), POISON, dtype=np.int32)
        self._cells = self._blocks.reshape(-1).data  # the same memory; its single items are cheap
        self._users: Counter[int] = Counter()  # how many tables hold a block

    @property
    def nbytes(self) -> int:
        return self._blocks.nbytes

    def _checked(self, block: int) -> int:
        if not 0 <= block < len(self._blocks):
            raise RunnerError(f"there is no block {block}")
        return block

    def extend(self, table: list[int], blocks: tuple[int, ...], computed: int) -> None:
        """Append `blocks` to a row's table; those that lie behind its `computed` tokens are new to everybody."""
        for block in blocks:
            if (
                self.check
                and len(table) * self.block_len >= computed
                and self._users[self._checked(block)] == 0
            ):
                self._blocks[block] = POISON
            table.append(self._checked(block))
            self._users[block] += 1

    def release(self, table: list[int], computed: int) -> None:
        """A row lets go of its table."""
        self._users.subtract(table)
        if self.check:
            # Only what was computed can be a cached prefix; nobody may read the rest again.
            start = computed % self.block_len
            for block in table[computed // self.block_len :]:
                if self._users[block] == 0:
                    self._blocks[block, start:] = POISON
                start = 0

    def copy(self, src: int, dst: int) -> None:
        self._blocks[self._checked(dst)] = self._blocks[self._checked(src)]

    def put(self, table: list[int], position: int, token: int) -> int:
        """Write one token and read it back. Raises IndexError where the table is too short."""
        block, offset = divmod(position, self.block_len)
        cell = table[block] * self.block_len + offset
        self._cells[cell] = token
        value: int = self._cells[cell]
        return value

    def read(self, table: list[int], length: int) -> Int32Array:
        """The first `length` token ids of a row [length]. Raises IndexError where the table is too short."""
        whole = -(-length // self.block_len)
        if whole > len(table):
            raise IndexError(f"{length} tokens lie in {whole} blocks; the table has {len(table)}")
        ids: Int32Array = self._blocks[table[:whole]].reshape(-1)[:length]
        return ids

    def fault(self, table: list[int], tokens: list[int], start: int, end: int) -> str | None:
        """Why a row with `start` computed tokens may not compute up to `end`, or None."""
        found = self.read(table, start)
        wrong = np.flatnonzero(found != np.asarray(tokens[:start], dtype=np.int32))
        if wrong.size:
            at = int(wrong[0])
            block, value = table[at // self.block_len], int(found[at])
            what = "poison" if value == POISON else f"token {value}"
            return f"block {block} holds {what} at position {at}, where the row has token {tokens[at]}"
        for block in table[start // self.block_len : -(-end // self.block_len)]:
            if self._users[block] > 1:
                return f"positions {start} to {end} are written to block {block}, which {self._users[block]} rows hold"
        return None
