"""The block pool under random admit, extend, share, preempt and abort: none lost, none shared wrongly."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deploykit.engine.blocks import MAX_TAILS, BlockPool, child_key, root_key


class Pool(RuleBasedStateMachine):
    """A model beside the pool: who holds what, and which content stands in which block."""

    @initialize(num_blocks=st.integers(1, 12))
    def make(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks)
        self.owners: list[list[int]] = []  # each owner holds its blocks once
        self.content: dict[int, bytes] = {}  # what a published block holds until it is allocated again

    @rule(count=st.integers(1, 6))
    def admit(self, count: int) -> None:
        free = self.pool.num_free
        blocks = self.pool.allocate(count)
        if blocks is None:
            assert count > free
            return
        assert len(set(blocks)) == count
        assert not {b for owner in self.owners for b in owner} & set(blocks)
        for block in blocks:
            self.content.pop(block, None)
        self.owners.append(blocks)

    @precondition(lambda self: self.owners)
    @rule(which=st.integers(0, 100), name=st.integers(0, 5))
    def publish(self, which: int, name: int) -> None:
        owner = self.owners[which % len(self.owners)]
        block, key = owner[which % len(owner)], bytes([name])
        known, had = self.pool.lookup(key), block in self.content
        self.pool.publish(block, key)
        if known is None and not had:
            self.content[block] = key

    @rule(name=st.integers(0, 5))
    def share(self, name: int) -> None:
        block = self.pool.lookup(bytes([name]))
        if block is not None:
            assert self.content[block] == bytes([name])
            self.pool.hold(block)
            self.owners.append([block])

    @precondition(lambda self: self.owners)
    @rule(which=st.integers(0, 100))
    def end(self, which: int) -> None:
        for block in self.owners.pop(which % len(self.owners)):
            self.pool.let_go(block)

    @rule()
    def flush(self) -> None:
        held = {b for owner in self.owners for b in owner}
        self.pool.flush()
        self.content = {b: k for b, k in self.content.items() if b in held}
        assert self.pool.num_cached == 0

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check()
        counts: dict[int, int] = {}
        for owner in self.owners:
            for block in owner:
                counts[block] = counts.get(block, 0) + 1
        assert self.pool.holders() == counts
        for block, key in self.content.items():
            assert self.pool.lookup(key) == block

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for owner in self.owners:
                for block in owner:
                    self.pool.let_go(block)
            assert self.pool.num_held == 0
            self.pool.check()


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_block_that_is_let_go_too_often_is_an_error() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1) or ()
    pool.let_go(block)
    with pytest.raises(AssertionError):
        pool.let_go(block)


def test_the_least_recently_freed_prefix_is_evicted_first() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(3) or []
    for block, name in zip(blocks, (b"a", b"b", b"c"), strict=True):
        pool.publish(block, name)
    for block in (blocks[1], blocks[0], blocks[2]):
        pool.let_go(block)
    pool.allocate(1)
    assert [pool.lookup(name) is None for name in (b"a", b"b", b"c")] == [False, True, False]


def test_prefix_keys_separate_what_changes_kv() -> None:
    roots = {root_key(), root_key(salt="a"), root_key(adapter="a"), root_key(kv="a"), root_key(salt="ab")}
    assert len(roots) == 5
    assert child_key(root_key(), [1, 2]) != child_key(root_key(), [2, 1])
    assert child_key(root_key(), [1, 2], b"image") != child_key(root_key(), [1, 2])


def test_the_tail_that_goes_on_longest_is_found_until_its_block_is_needed() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(3) or []
    for block, tokens in zip(blocks, ([1, 2], [1, 2, 3], [1, 9, 9, 9]), strict=True):
        pool.publish_tail(block, b"p", tokens)
        pool.let_go(block)
        pool.check()
    assert pool.num_cached == 2  # the first says nothing that the second doesn't
    assert pool.find_tail(b"p", [1, 2, 3, 4]) == (blocks[1], 3)
    assert pool.find_tail(b"p", [1, 9, 1]) == (blocks[2], 2)
    assert pool.find_tail(b"p", [2]) is None
    assert pool.find_tail(b"q", [1, 2]) is None
    pool.hold(blocks[1])
    taken = pool.allocate(3) or []
    assert blocks[1] not in taken
    assert pool.find_tail(b"p", [1, 9]) == (blocks[1], 1)
    pool.let_go(blocks[1])
    pool.check()
    assert pool.flush() == 1
    assert pool.find_tail(b"p", [1, 2]) is None
    pool.check()


def test_a_prefix_keeps_a_few_tails_the_latest_ones() -> None:
    pool = BlockPool(4 * MAX_TAILS)
    blocks = pool.allocate(2 * MAX_TAILS) or []
    for number, block in enumerate(blocks):
        pool.publish_tail(block, b"p", [number, 0])
        pool.let_go(block)
    assert pool.num_cached == MAX_TAILS
    assert pool.find_tail(b"p", [0]) is None
    assert pool.find_tail(b"p", [2 * MAX_TAILS - 1, 0, 0]) == (blocks[-1], 2)
    pool.check()
