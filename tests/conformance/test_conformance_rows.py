"""Rows and their uses: epochs, releases, ends that are seen late, failures, and what a runner holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conformance_driver import Driver, Loaded, Seq

from deploykit.engine.types import Finish, Release, RunnerError, SamplingParams


def test_capacity_is_what_was_planned(loaded: Loaded) -> None:
    capacity = loaded.capacity
    (group,) = capacity.groups
    assert group.kind == "full"
    assert (capacity.max_rows, capacity.session_len, capacity.max_step_tokens) == (8, 256, 128)
    assert (group.block_len, group.num_blocks) == (16 if "cuda" in loaded.name else 8, 64)
    assert group.block_bytes > 0
    assert capacity.vocab_size >= 320
    assert capacity.overlap_depth in (0, 1)
    assert loaded.epochs or capacity.bytes_measured >= group.block_bytes * group.num_blocks


def test_every_block_and_the_whole_budget_can_be_used(driver: Driver) -> None:
    """Every block in a table at once, and a step of exactly max_step_tokens."""
    rows, size = driver.capacity.max_rows, driver.block_len
    per_row = driver.group.num_blocks // rows * size
    share = driver.capacity.max_step_tokens // rows
    seqs = [Seq(driver.prompt(per_row - 1, salt=i), max_tokens=2) for i in range(rows)]
    references = [driver.alone(seq) for seq in seqs[:2]]
    for row, seq in enumerate(seqs):
        driver.admit(seq, row)
    while any(seq.pending > 1 for seq in seqs):
        driver.step([(seq, min(share, seq.pending)) for seq in seqs])
    driver.run(*seqs)
    assert not driver.free
    assert all(len(seq.outputs) == 2 for seq in seqs)
    assert [s.outputs for s in seqs[:2]] == [r.outputs for r in references]


def test_a_full_session(driver: Driver) -> None:
    """known reaches session_len: the last token is drawn and never computed."""
    length = driver.capacity.session_len
    seq = driver.admit(Seq(driver.prompt(length - 3), max_tokens=3))
    driver.run(seq, chunk=100)
    assert len(seq.outputs) == 3
    assert seq.finish == Finish.LENGTH


def test_a_row_is_used_again_in_the_step_that_releases_it(driver: Driver) -> None:
    """Nothing of the first use is left: parameters, counts, tokens."""
    params = SamplingParams(temperature=0, frequency_penalty=1.5, logit_bias={7: 50.0}, logprobs=2)
    reference = driver.alone(Seq(driver.prompt(5)))
    first = driver.admit(Seq(driver.prompt(30), params, max_tokens=20))
    for _ in range(4):
        driver.step([(first, first.pending)])
    assert set(first.outputs) == {7}
    driver.release(first)
    second = driver.admit(Seq(driver.prompt(5)))
    assert (second.row, second.epoch) == (first.row, first.epoch + 1)
    driver.run(second)
    assert second.outputs == reference.outputs
    assert second.logprobs == []


def test_a_row_that_is_not_free_is_not_given_away(driver: Driver) -> None:
    reference = driver.alone(Seq(driver.prompt(12)))
    first = driver.admit(Seq(driver.prompt(12)), row=2)
    driver.step([(first, 12)])
    second = driver.admit(Seq(driver.prompt(4)), row=2)
    with pytest.raises(RunnerError):
        driver.step([(second, 4)])
    driver.run(first)
    assert first.outputs == reference.outputs


def test_releasing_twice_or_too_late_does_nothing(driver: Driver) -> None:
    reference = driver.alone(Seq(driver.prompt(12)))
    old = driver.admit(Seq(driver.prompt(3)))
    driver.step([(old, 3)])
    driver.release(old)
    driver.releases += [Release(old.row, old.epoch), Release(old.row, old.epoch)]
    seq = driver.admit(Seq(driver.prompt(12)))
    driver.step([(seq, 12)])
    # the use before, one that never was, and a row that never was used
    driver.releases += [Release(old.row, old.epoch), Release(seq.row, seq.epoch + 5), Release(6, 10**6)]
    driver.run(seq)
    assert seq.outputs == reference.outputs


def test_a_row_that_has_ended_has_nothing_to_add(driver: Driver) -> None:
    """Where steps overlap a row is asked once more before its end is seen; at depth 0 it may be asked too."""
    prompt = driver.prompt(6)
    free = driver.alone(Seq(prompt, max_tokens=6))
    other_reference = driver.alone(Seq(driver.prompt(9), max_tokens=12))
    seq = driver.admit(Seq(prompt, max_tokens=6, eos=(free.outputs[0],)), row=0)
    other = driver.admit(Seq(driver.prompt(9), max_tokens=12), row=1)
    driver.launch([(seq, 6), (other, 9)])
    if driver.depth == 0:
        driver.collect()
    driver.launch([(seq, 1), (other, 1)])
    while driver.inflight:
        driver.collect()  # asserts that an ended sequence gets nothing
    assert seq.outputs == free.outputs[:1]
    assert seq.finish == Finish.STOP
    driver.run(other)
    assert other.outputs == other_reference.outputs


def test_a_row_joins_while_a_step_is_in_flight(driver: Driver) -> None:
    """Decode tokens come from the runner's own pool: the host has not seen the one that is computed next."""
    references = [driver.alone(Seq(driver.prompt(n), max_tokens=10)) for n in (7, 18)]
    first = driver.admit(Seq(driver.prompt(7), max_tokens=10), row=0)
    driver.launch([(first, 7)])
    if driver.depth == 0:
        driver.collect()
    second = driver.admit(Seq(driver.prompt(18), max_tokens=10), row=1)
    driver.launch([(first, 1), (second, 10)])
    assert len(first.outputs) == 1 - driver.depth
    driver.run(first, second)
    assert [first.outputs, second.outputs] == [r.outputs for r in references]


def test_a_row_released_while_its_step_is_in_flight(driver: Driver) -> None:
    """An abort: the row's blocks belong to the next one, whose tokens are right."""
    reference = driver.alone(Seq(driver.prompt(17), max_tokens=5))
    gone = driver.admit(Seq(driver.prompt(10), max_tokens=50))
    driver.launch([(gone, 10)])
    if driver.depth == 0:
        driver.collect()
    driver.release(gone)
    driver.free.sort(key=lambda block: block in driver.free[:2])  # the same blocks come first again
    seq = driver.admit(Seq(driver.prompt(17), max_tokens=5))
    driver.run(seq)
    assert seq.outputs == reference.outputs


def test_a_failure_names_its_row_and_the_others_stand(driver: Driver) -> None:
    reference = driver.alone(Seq(driver.prompt(8)))
    good = driver.admit(Seq(driver.prompt(8)), row=3)
    bad = driver.admit(Seq(driver.prompt(5), deferred=True), row=4)
    nothing = np.zeros(math.ceil(driver.vocab_size / 32), dtype=np.uint32)
    driver.step([(good, 8), (bad, 5)], masks={4: nothing})
    assert bad.failure is not None
    assert (bad.failure.row, bad.failure.epoch, bad.failure.code) == (4, bad.epoch, "no_token")
    assert bad.failure.reason
    assert good.failure is None
    driver.release(bad)
    again = driver.admit(Seq(driver.prompt(8)), row=4)  # the row itself is fine
    driver.run(good, again)
    assert good.outputs == again.outputs == reference.outputs


def test_results_say_how_long_they_took(driver: Driver) -> None:
    seq = driver.admit(Seq(driver.prompt(8)))
    result = driver.step([(seq, 8)])
    assert 0 <= result.forward_s < 60
    assert 0 <= result.sample_s < 60
