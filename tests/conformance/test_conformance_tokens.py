"""The same request gives the same tokens however it is computed: chunks, batches, shared blocks, preemption."""

from __future__ import annotations

import random

import pytest
from conformance_driver import GREEDY, Driver, Seq

from deploykit.engine.types import Finish, SamplingParams

DRAWN = SamplingParams(temperature=0.9, top_k=40, top_p=0.95, frequency_penalty=0.3, repetition_penalty=1.1)
both = pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])


def assert_same(seq: Seq, reference: Seq) -> None:
    assert seq.outputs == reference.outputs
    assert seq.finish == reference.finish


@both
def test_chunks_do_not_matter(driver: Driver, params: SamplingParams) -> None:
    prompt = driver.prompt(37)
    reference = driver.alone(Seq(prompt, params, seed=3))
    assert len(reference.outputs) == 8
    rng = random.Random(1)
    cuts = [[1] * 37, [8, 8, 8, 8, 5], [5, 32], [36, 1], [7] * 5 + [2]]
    cuts += [
        [b - a for a, b in zip([0, *c], [*c, 37], strict=True)]
        for c in (sorted(rng.sample(range(1, 37), 6)),)
    ]
    for chunks in cuts:
        seq = driver.admit(Seq(prompt, params, seed=3))
        for n in chunks[:-1]:
            driver.step([(seq, n)])
            assert seq.outputs == []
        driver.step([(seq, chunks[-1])])
        driver.run(seq)
        assert_same(seq, reference)
        driver.release(seq)


def test_the_batch_does_not_matter(driver: Driver) -> None:
    """Rows of different lengths and parameters, that come and go at different times."""
    wanted = [
        Seq(driver.prompt(length, salt=length), params, max_tokens=count, seed=length)
        for length, params, count in [
            (3, GREEDY, 12),
            (21, DRAWN, 9),
            (8, GREEDY, 5),
            (40, DRAWN, 14),
            (1, SamplingParams(temperature=1.3, min_p=0.02), 10),
            (16, SamplingParams(temperature=0.7, presence_penalty=1.0), 3),
        ]
    ]
    references = [driver.alone(seq) for seq in wanted]
    waiting = list(enumerate(wanted))
    running: list[Seq] = []
    turn = 0
    while waiting or running:
        if waiting and turn % 2 == 0:
            row, seq = waiting.pop(0)
            running.append(driver.admit(seq, row))
        driver.step([(seq, min(seq.pending, 7)) for seq in running])
        for seq in [s for s in running if s.ended]:
            running.remove(seq)
            driver.release(seq)
        turn += 1
    for seq, reference in zip(wanted, references, strict=True):
        assert_same(seq, reference)


def test_all_rows_prefill_and_decode_in_one_step(driver: Driver) -> None:
    rows = driver.capacity.max_rows
    seqs = [Seq(driver.prompt(4 + 3 * i, salt=i), max_tokens=6) for i in range(rows)]
    references = [driver.alone(seq) for seq in seqs]
    for row, seq in enumerate(seqs):
        driver.admit(seq, row)
    driver.run(*seqs)
    for seq, reference in zip(seqs, references, strict=True):
        assert_same(seq, reference)


@both
def test_a_prefix_is_shared_by_its_blocks(driver: Driver, params: SamplingParams) -> None:
    """Two rows read one row's blocks, while it runs and after it has been released."""
    size = driver.block_len
    base = driver.prompt(2 * size + 3)
    tails = [driver.prompt(5, salt=i) for i in (1, 2)]
    wanted = [Seq(base[: 2 * size] + tail, params, seed=i) for i, tail in enumerate(tails)]
    references = [driver.alone(seq) for seq in wanted]

    owner = driver.admit(Seq(base, max_tokens=4), row=0)
    driver.step([(owner, len(base))])
    shared = owner.blocks[:2]
    first = driver.admit(wanted[0], row=1, computed=2 * size, blocks=shared)
    driver.step([(owner, 1), (first, 5)])
    driver.run(owner, first)
    driver.release(owner, keep=shared)
    driver.release(first, keep=shared)
    second = driver.admit(wanted[1], row=0, computed=2 * size, blocks=shared)
    driver.run(second)
    for seq, reference in zip((first, second), references, strict=True):
        assert_same(seq, reference)


def test_a_whole_prompt_but_its_last_token_may_be_shared(driver: Driver) -> None:
    size = driver.block_len
    prompt = driver.prompt(2 * size + 1)
    reference = driver.alone(Seq(prompt))
    owner = driver.admit(Seq(prompt), row=0)
    driver.run(owner)
    seq = driver.admit(Seq(prompt), row=1, computed=2 * size, blocks=owner.blocks[:2])
    driver.run(seq)
    assert_same(seq, reference)


@pytest.mark.parametrize("length", [11, 16, 1])
def test_siblings_copy_the_partial_block(driver: Driver, length: int) -> None:
    """n > 1: full blocks are shared, the last one is copied, and each goes its own way."""
    prompt = driver.prompt(length)
    params = SamplingParams(temperature=1.0)
    references = [driver.alone(Seq(prompt, params, max_tokens=12, seed=seed)) for seed in (1, 2, 3)]
    assert len({tuple(r.outputs) for r in references}) == 3

    leader = driver.admit(Seq(prompt, params, max_tokens=12, seed=1), row=0)
    driver.step([(leader, length)])
    driver.step([(leader, 1)])  # it has written past the prompt in the block that is copied
    siblings = []
    for row, seed in ((1, 2), (2, 3)):
        whole, rest = divmod(length - 1, driver.block_len)
        own = driver.take(1)
        sibling = Seq(prompt, params, max_tokens=12, seed=seed)
        driver.admit(sibling, row, computed=length - 1, blocks=leader.blocks[:whole] + own)
        if rest:
            driver.copy(leader.blocks[whole], own[0])
        siblings.append(sibling)
    driver.run(leader, *siblings)
    for seq, reference in zip((leader, *siblings), references, strict=True):
        assert_same(seq, reference)


def test_copies_come_before_the_step_writes(driver: Driver) -> None:
    """The source is written to in the very step that copies it."""
    prompt = driver.prompt(4)
    reference = driver.alone(Seq(prompt, max_tokens=10))
    first = driver.admit(Seq(prompt, max_tokens=10), row=0)
    driver.step([(first, 4)])
    second = Seq(prompt, max_tokens=10)
    driver.admit(second, row=1, computed=3, blocks=driver.take(1))
    driver.copy(first.blocks[0], second.blocks[0])
    driver.step([(first, 1), (second, 1)])
    driver.run(first, second)
    assert_same(first, reference)
    assert_same(second, reference)


@both
def test_preemption_at_any_moment_changes_nothing(driver: Driver, params: SamplingParams) -> None:
    prompt = driver.prompt(13)
    reference = driver.alone(Seq(prompt, params, max_tokens=9, seed=8))
    for moment in range(9):
        seq = driver.admit(Seq(prompt, params, max_tokens=9, seed=8), row=0)
        other = driver.admit(Seq(driver.prompt(6), max_tokens=30), row=1)
        driver.step([(seq, 5), (other, 6)])
        for _ in range(moment):
            driver.step([(seq, seq.pending), (other, 1)])
        driver.release(seq)
        driver.step([(other, 1)])
        driver.admit(seq, row=2)  # another row, other blocks
        while not seq.ended:
            driver.step([(seq, min(seq.pending, 6)), (other, 1)])
        assert_same(seq, reference)
        driver.release(seq)
        driver.release(other)


def test_preempted_and_back_in_the_same_row_within_one_step(driver: Driver) -> None:
    prompt = driver.prompt(10)
    reference = driver.alone(Seq(prompt, DRAWN, max_tokens=8, seed=2))
    seq = driver.admit(Seq(prompt, DRAWN, max_tokens=8, seed=2))
    driver.step([(seq, 10)])
    driver.step([(seq, 1)])
    driver.release(seq)
    driver.admit(seq)
    driver.run(seq)
    assert_same(seq, reference)


@both
@pytest.mark.parametrize("iterations", [2, 5])
def test_iterations_in_one_step(driver: Driver, params: SamplingParams, iterations: int) -> None:
    """Several decode iterations a step: a row that ends within them, one that goes on, one that only prefills."""
    short = Seq(driver.prompt(9), params, max_tokens=7, seed=1)
    long = Seq(driver.prompt(4), params, max_tokens=24, seed=2)
    late = Seq(driver.prompt(20), params, max_tokens=3, seed=3)
    references = [driver.alone(seq) for seq in (short, long, late)]
    for row, seq in enumerate((short, long, late)):
        driver.admit(seq, row)
    driver.step([(short, 9), (long, 4), (late, 5)], iterations=iterations)
    assert [len(s.outputs) for s in (short, long, late)] == [iterations, iterations, 0]
    driver.step([(short, 1), (long, 1), (late, 15)], iterations=iterations)
    while running := [s for s in (short, long, late) if not s.ended]:
        driver.step([(s, s.pending) for s in running], iterations=iterations)
    for seq, reference in zip((short, long, late), references, strict=True):
        assert_same(seq, reference)
        assert seq.finish == Finish.LENGTH


@both
def test_iterations_equal_as_many_steps(driver: Driver, params: SamplingParams) -> None:
    """The same rows side by side, six iterations a step or one: a row that ends within them holds nobody up."""

    def outputs(iterations: int) -> list[list[int]]:
        lengths = ((9, 4), (4, 13), (13, 13), (6, 13))  # (prompt, answer): one row ends early, three together
        seqs = [Seq(driver.prompt(n), params, max_tokens=m, seed=n) for n, m in lengths]
        for row, seq in enumerate(seqs):
            driver.admit(seq, row)
        driver.step([(seq, len(seq.prompt)) for seq in seqs])
        steps = 1
        while running := [seq for seq in seqs if not seq.ended]:
            driver.step([(seq, seq.pending) for seq in running], iterations=iterations)
            steps += 1
        assert steps == 1 + 12 // iterations
        for seq in seqs:
            assert seq.finish == Finish.LENGTH
            driver.release(seq)
        return [seq.outputs for seq in seqs]

    assert outputs(6) == outputs(1)


def test_iterations_stop_at_a_stop_token(driver: Driver) -> None:
    prompt = driver.prompt(9)
    free = driver.alone(Seq(prompt, max_tokens=12))
    index = next(i for i in range(2, 12) if free.outputs[i] not in free.outputs[:i])
    seq = driver.admit(Seq(prompt, max_tokens=12, eos=(free.outputs[index],)))
    driver.step([(seq, 9)], iterations=12)
    assert seq.outputs == free.outputs[: index + 1]
    assert seq.finish == Finish.STOP
