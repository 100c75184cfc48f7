"""KV blocks: who holds each one, which prefix each one caches, which one goes next.

A block is in exactly one of three states: *held* (a count of holders > 0), *cached* (nobody holds it, but its
content is a known prefix) or *empty*. Empty blocks are taken first, then cached ones in the order in which they
were let go, so that the free list is the LRU.

A full block is known by the key of its whole prefix and shared as it is. The last block of a sequence that has ended
is seldom full: it is kept as a *tail*, known by the prefix before it, and copied by whoever goes on from there.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from deploykit.engine.types import pack

PrefixKey = bytes  # sha256
MAX_TAILS = 8  # kept after one prefix, the latest ones


def root_key(*, salt: str = "", adapter: str | None = None, kv: str = "") -> PrefixKey:
    """The parent of a first block: everything besides tokens that changes the KV of a prefix."""
    parts = ("deploykit/1", kv, adapter or "", salt)
    return hashlib.sha256(
        b"".join(len(p.encode()).to_bytes(4, "little") + p.encode() for p in parts)
    ).digest()


def child_key(parent: PrefixKey, token_ids: Sequence[int], extra: bytes = b"") -> PrefixKey:
    """The key of a full block after `parent`. `extra`: content hash and offset of images in it."""
    return hashlib.sha256(parent + pack(token_ids) + extra).digest()


class BlockPool:
    """Reference-counted blocks with a prefix cache over the free ones."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._holders = [0] * num_blocks
        self._key_of: list[PrefixKey | None] = [None] * num_blocks
        self._by_key: dict[PrefixKey, int] = {}
        self._tail_of: dict[int, tuple[PrefixKey, tuple[int, ...]]] = {}  # the prefix before it, its tokens
        self._tails: dict[PrefixKey, list[int]] = {}  # oldest first
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently let go first

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now; cached ones count."""
        return len(self._empty) + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_held(self) -> int:
        return self.num_blocks - self.num_free

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks with one holder each, or None and nothing changed."""
        if count > self.num_free:
            return None
        blocks = []
        for _ in range(count):
            if self._empty:
                block = self._empty.pop()
            else:
                block, _unused = self._cached.popitem(last=False)
                self._forget(block)
            self._holders[block] = 1
            blocks.append(block)
        return blocks

    def lookup(self, key: PrefixKey) -> int | None:
        """The block that caches `key`, without holding it."""
        return self._by_key.get(key)

    def hold(self, block: int) -> None:
        """One more holder, of a held or a cached block."""
        if self._holders[block] == 0:
            del self._cached[block]  # an empty block can't be held: KeyError is the right answer
        self._holders[block] += 1

    def let_go(self, block: int) -> None:
        """One holder less; the last one leaves the block cached, or empty if nothing is known of it."""
        if self._holders[block] <= 0:
            raise AssertionError(f"block {block} is let go more often than it was held")
        self._holders[block] -= 1
        if self._holders[block] == 0:
            if self._key_of[block] is None and block not in self._tail_of:
                self._empty.append(block)
            else:
                self._cached[block] = None

    def is_free(self, block: int) -> bool:
        return self._holders[block] == 0

    def holders(self) -> dict[int, int]:
        """How many hold each held block."""
        return {block: count for block, count in enumerate(self._holders) if count}

    def publish(self, block: int, key: PrefixKey) -> None:
        """A held block's content is final and known by `key`. The first block of a key keeps it."""
        if key not in self._by_key and self._key_of[block] is None:
            self._by_key[key] = block
            self._key_of[block] = key

    def publish_tail(self, block: int, parent: PrefixKey, token_ids: Sequence[int]) -> None:
        """A held block's first positions are final: those of `token_ids`, after the prefix `parent`."""
        tokens = tuple(token_ids)
        if not tokens or self._key_of[block] is not None:
            return
        tails = self._tails.setdefault(parent, [])
        for other in list(tails):
            known = self._tail_of[other][1]
            if known[: len(tokens)] == tokens:
                return  # nothing new
            if (known == tokens[: len(known)] or len(tails) >= MAX_TAILS) and other in self._cached:
                del self._cached[other]
                self._forget(other)
                self._empty.append(other)
        self._tails.setdefault(parent, []).append(block)
        self._tail_of[block] = (parent, tokens)

    def find_tail(self, parent: PrefixKey, token_ids: Sequence[int]) -> tuple[int, int] | None:
        """The tail after `parent` that begins with the most of `token_ids`, and with how many; None with none."""
        best, most = -1, 0
        for block in self._tails.get(parent, ()):
            length = 0
            for known, token in zip(self._tail_of[block][1], token_ids, strict=False):
                if known != token:
                    break
                length += 1
            if length > most:
                best, most = block, length
        return (best, most) if most else None

    def flush(self) -> int:
        """Forget every cached prefix that nobody holds; how many blocks that emptied."""
        blocks = list(self._cached)
        self._cached.clear()
        for block in blocks:
            self._forget(block)
            self._empty.append(block)
        return len(blocks)

    def _forget(self, block: int) -> None:
        key = self._key_of[block]
        if key is not None:
            del self._by_key[key]
            self._key_of[block] = None
        elif (tail := self._tail_of.pop(block, None)) is not None:
            tails = self._tails[tail[0]]
            tails.remove(block)
            if not tails:
                del self._tails[tail[0]]

    def check(self) -> None:
        """Raise AssertionError unless every block is in exactly one state and the index agrees."""
        empty, cached = set(self._empty), set(self._cached)
        if len(empty) != len(self._empty) or empty & cached:
            raise AssertionError("a block stands in the free list twice")
        for block in range(self.num_blocks):
            free = block in empty or block in cached
            if free != (self._holders[block] == 0) or self._holders[block] < 0:
                raise AssertionError(f"block {block}: {self._holders[block]} holders, free: {free}")
            known = self._key_of[block] is not None or block in self._tail_of
            if block in empty and known:
                raise AssertionError(f"block {block} is empty and has a key")
            if block in cached and not known:
                raise AssertionError(f"block {block} is cached and has no key")
        if {k: b for b, k in enumerate(self._key_of) if k is not None} != self._by_key:
            raise AssertionError("the prefix index disagrees with the blocks")
        tails = {block: parent for parent, blocks in self._tails.items() for block in blocks}
        if tails != {block: tail[0] for block, tail in self._tail_of.items()}:
            raise AssertionError("the index of tails disagrees with the blocks")
