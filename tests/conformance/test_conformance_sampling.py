"""What ends a row, what is drawn, and which log probabilities are reported."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conformance_driver import GREEDY, Driver, Seq

from deploykit.engine.types import Finish, SamplingParams, TokenLogprob

TOLERANCE = 1e-4


def bits(vocab_size: int, allowed: set[int]) -> np.ndarray:
    """uint32[ceil(vocab_size / 32)], bit set = allowed."""
    mask = np.zeros(math.ceil(vocab_size / 32), dtype=np.uint32)
    for token in allowed:
        mask[token // 32] |= np.uint32(1 << (token % 32))
    return mask


def first_new(tokens: list[int], start: int = 1) -> int:
    """The first index from `start` whose token stands nowhere before it."""
    return next(i for i in range(start, len(tokens)) if tokens[i] not in tokens[:i])


def assert_close(found: list[TokenLogprob], wanted: list[TokenLogprob]) -> None:
    assert [(lp.token, lp.rank, len(lp.top)) for lp in found] == [
        (lp.token, lp.rank, len(lp.top)) for lp in wanted
    ]
    for a, b in zip(found, wanted, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=TOLERANCE)
        assert [i for i, _ in a.top] == [i for i, _ in b.top]
        assert [v for _, v in a.top] == pytest.approx([v for _, v in b.top], abs=TOLERANCE)


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("count", [1, 2, 9])
def test_length(driver: Driver, count: int) -> None:
    seq = driver.alone(Seq(driver.prompt(7), max_tokens=count))
    assert len(seq.outputs) == count
    assert seq.finish == Finish.LENGTH


def test_eos_and_stop_ids_end_a_row_and_are_its_last_token(driver: Driver) -> None:
    free = driver.alone(Seq(driver.prompt(7), max_tokens=12))
    index = first_new(free.outputs)
    token = free.outputs[index]
    for seq in (
        Seq(free.prompt, max_tokens=12, eos=(token, 5)),
        Seq(free.prompt, SamplingParams(temperature=0, stop_token_ids=(token, 10**6)), max_tokens=12),
    ):
        ended = driver.alone(seq)
        assert ended.outputs == free.outputs[: index + 1]
        assert ended.finish == Finish.STOP


def test_stop_on_the_last_token_is_a_stop(driver: Driver) -> None:
    free = driver.alone(Seq(driver.prompt(7), max_tokens=12))
    index = first_new(free.outputs)
    ended = driver.alone(Seq(free.prompt, max_tokens=index + 1, eos=(free.outputs[index],)))
    assert ended.finish == Finish.STOP


def test_min_tokens_holds_eos_and_stop_ids_back(driver: Driver) -> None:
    free = driver.alone(Seq(driver.prompt(7), max_tokens=8))
    a, b = free.outputs[0], free.outputs[first_new(free.outputs)]
    params = SamplingParams(temperature=0, min_tokens=4, stop_token_ids=(a,))
    held = driver.alone(Seq(free.prompt, params, max_tokens=8, eos=(b,)))
    assert not {a, b} & set(held.outputs[:4])
    assert len(held.outputs) >= 4
    without = driver.alone(Seq(free.prompt, SamplingParams(temperature=0, stop_token_ids=(a,)), max_tokens=8))
    assert without.outputs == [a]


# ---------------------------------------------------------------- what is drawn


def test_bad_words(driver: Driver) -> None:
    free = driver.alone(Seq(driver.prompt(7), max_tokens=8))
    a, b = free.outputs[:2]
    one = driver.alone(Seq(free.prompt, SamplingParams(temperature=0, bad_words=((a,),)), max_tokens=8))
    assert a not in one.outputs
    pair = SamplingParams(temperature=0, bad_words=((a, b),))
    two = driver.alone(Seq(free.prompt, pair, max_tokens=8))
    assert two.outputs[0] == a
    assert two.outputs[1] != b
    # the prompt's last token counts as the one before
    across = SamplingParams(temperature=0, bad_words=((free.prompt[-1], a),))
    assert driver.alone(Seq(free.prompt, across)).outputs[0] != a
    apart = SamplingParams(temperature=0, bad_words=((free.prompt[0], a),))
    assert driver.alone(Seq(free.prompt, apart)).outputs == free.outputs


def test_logit_bias_and_repetition_penalty(driver: Driver) -> None:
    prompt = [token for token in driver.prompt(9) if token not in (11, 12)]
    bias = {11: 1000.0, 12: 800.0}
    forced = driver.alone(Seq(prompt, SamplingParams(temperature=0, logit_bias=bias), max_tokens=4))
    assert forced.outputs == [11] * 4
    halved = SamplingParams(temperature=0, logit_bias=bias, repetition_penalty=2.0)
    assert driver.alone(Seq(prompt, halved, max_tokens=4)).outputs == [11, 12, 11, 11]
    # a prompt's tokens count as much as drawn ones
    assert driver.alone(Seq([*prompt, 11], halved, max_tokens=2)).outputs == [12, 11]


@pytest.mark.parametrize(
    ("frequency", "presence", "expected"),
    [
        (0.9, 0, 11),
        (1.1, 0, 12),
        (0, 2.9, 11),
        (0, 3.1, 12),
        (0.5, 1.4, 11),
        (0.5, 1.6, 12),
        (-2.0, -2.0, 11),
    ],
)
def test_frequency_and_presence_penalties(
    driver: Driver, frequency: float, presence: float, expected: int
) -> None:
    """Token 11 is three above token 12 and stands three times in the output."""
    prompt, outputs = driver.prompt(6), [11, 11, 11]
    raw = driver.alone(Seq(prompt + outputs, SamplingParams(temperature=0, logprobs=320), max_tokens=1))
    value = dict(raw.logprobs[0].top)
    params = SamplingParams(
        temperature=0,
        frequency_penalty=frequency,
        presence_penalty=presence,
        logit_bias={11: 503 - value[11], 12: 500 - value[12]},
    )
    seq = driver.admit(Seq(prompt, params, max_tokens=4, outputs=list(outputs)))
    driver.run(seq)
    assert seq.outputs == [*outputs, expected]
    driver.release(seq)
    # in the prompt they don't count
    assert driver.alone(Seq(prompt + outputs, params, max_tokens=1)).outputs == [11]


def test_seeds(driver: Driver) -> None:
    params = SamplingParams(temperature=1.0, top_k=100)
    prompt = driver.prompt(9)
    runs = [
        driver.alone(Seq(prompt, params, max_tokens=10, seed=seed)).outputs for seed in (1, 1, 2, 2**64 - 1)
    ]
    assert runs[0] == runs[1]
    assert len({tuple(run) for run in runs}) == 3
    assert driver.alone(Seq(prompt, params, max_tokens=10, seed=1), row=5).outputs == runs[0]


def test_a_narrow_draw_is_greedy(driver: Driver) -> None:
    greedy = driver.alone(Seq(driver.prompt(9)))
    for params in (
        SamplingParams(temperature=1.5, top_k=1),
        SamplingParams(temperature=1.5, top_p=1e-9),
        SamplingParams(temperature=1.5, min_p=1.0),
        SamplingParams(temperature=1e-6),
    ):
        assert driver.alone(Seq(greedy.prompt, params, seed=4)).outputs == greedy.outputs


# ---------------------------------------------------------------- log probabilities


@pytest.mark.parametrize("k", [0, 1, 5])
def test_logprobs_of_drawn_tokens(driver: Driver, k: int) -> None:
    plain = driver.alone(Seq(driver.prompt(9)))
    seq = driver.alone(Seq(plain.prompt, SamplingParams(temperature=0, logprobs=k)))
    assert seq.outputs == plain.outputs
    assert len(seq.logprobs) == len(seq.outputs)
    for lp in seq.logprobs:
        assert lp.rank == 1
        assert lp.logprob <= 0
        assert len(lp.top) == k
        values = [value for _, value in lp.top]
        assert values == sorted(values, reverse=True)
        assert sum(math.exp(v) for v in values) <= 1 + 1e-6
        if k:
            assert lp.top[0][0] == lp.token
            assert lp.top[0][1] == pytest.approx(lp.logprob, abs=1e-6)


def test_all_logprobs_are_a_distribution(driver: Driver) -> None:
    params = SamplingParams(temperature=0, logprobs=driver.vocab_size)
    seq = driver.alone(Seq(driver.prompt(9), params, max_tokens=2))
    for lp in seq.logprobs:
        assert len({token for token, _ in lp.top}) == driver.vocab_size
        assert sum(math.exp(value) for _, value in lp.top) == pytest.approx(1, abs=1e-4)


def test_logprobs_are_the_models_own(driver: Driver) -> None:
    """Raw: neither temperature nor bias nor penalties show in them."""
    plain = driver.alone(Seq(driver.prompt(9), SamplingParams(temperature=0, logprobs=3), max_tokens=1))
    every = driver.alone(Seq(plain.prompt, SamplingParams(temperature=0, logprobs=320), max_tokens=1))
    shown = dict(every.logprobs[0].top)
    target = 200 if plain.outputs[0] != 200 else 201
    params = SamplingParams(
        temperature=2.0,
        logit_bias={target: 1000.0},
        repetition_penalty=1.7,
        top_k=1,
        min_tokens=1,
        logprobs=3,
    )
    forced = driver.alone(Seq(plain.prompt, params, max_tokens=1, eos=(5,)))
    assert forced.outputs == [target]
    (lp,) = forced.logprobs
    assert [i for i, _ in lp.top] == [i for i, _ in plain.logprobs[0].top]
    assert [v for _, v in lp.top] == pytest.approx([v for _, v in plain.logprobs[0].top], abs=TOLERANCE)
    assert lp.rank > 1
    assert lp.logprob == pytest.approx(shown[target], abs=TOLERANCE)
    assert lp.rank == 1 + sum(value > shown[target] for value in shown.values())


def test_prompt_logprobs_over_chunks(driver: Driver) -> None:
    params = SamplingParams(temperature=0, prompt_logprobs=2)
    prompt = driver.prompt(29)
    whole = driver.alone(Seq(prompt, params))
    assert [lp.token for lp in whole.prompt_logprobs] == prompt[1:]
    assert all(len(lp.top) == 2 for lp in whole.prompt_logprobs)
    for chunk in (1, 8, 10, 28):
        parts = driver.alone(Seq(prompt, params), chunk=chunk)
        assert_close(parts.prompt_logprobs, whole.prompt_logprobs)
        assert parts.outputs == whole.outputs


def test_prompt_logprobs_beside_other_rows(driver: Driver) -> None:
    params = SamplingParams(temperature=0, prompt_logprobs=1)
    reference = driver.alone(Seq(driver.prompt(12), params))
    other_reference = driver.alone(Seq(driver.prompt(20)))
    other = driver.admit(Seq(driver.prompt(20)), row=0)
    driver.step([(other, 20)])
    seq = driver.admit(Seq(driver.prompt(12), params), row=1)
    driver.step([(other, 1), (seq, 7)])
    driver.step([(other, 1), (seq, 5)])
    driver.run(other, seq)
    assert_close(seq.prompt_logprobs, reference.prompt_logprobs)
    assert seq.outputs == reference.outputs
    assert other.outputs == other_reference.outputs


def test_a_prompt_that_is_only_scored(driver: Driver) -> None:
    """limit == prompt_len: nothing is drawn."""
    reference = driver.alone(Seq(driver.prompt(12), SamplingParams(temperature=0, prompt_logprobs=0)))
    seq = driver.alone(
        Seq(driver.prompt(12), SamplingParams(temperature=0, prompt_logprobs=0), max_tokens=0), chunk=5
    )
    assert seq.outputs == []
    assert seq.failure is None
    assert_close(seq.prompt_logprobs, reference.prompt_logprobs)


def test_prompt_and_output_logprobs_agree(driver: Driver) -> None:
    """What was reported when a token was drawn is what it gets as part of a prompt."""
    drawn = driver.alone(Seq(driver.prompt(9), SamplingParams(temperature=1.0, logprobs=3), seed=6))
    scored = driver.alone(Seq(drawn.prompt + drawn.outputs, SamplingParams(temperature=0, prompt_logprobs=3)))
    assert_close(scored.prompt_logprobs[-len(drawn.outputs) :], drawn.logprobs)


def test_logprobs_after_a_preemption(driver: Driver) -> None:
    params = SamplingParams(temperature=0.8, logprobs=2)
    reference = driver.alone(Seq(driver.prompt(9), params, max_tokens=6, seed=1))
    seq = driver.admit(Seq(driver.prompt(9), params, max_tokens=6, seed=1))
    for _ in range(3):
        driver.step([(seq, seq.pending)])
    driver.release(seq)
    driver.admit(seq, row=3)
    driver.run(seq)
    assert seq.outputs == reference.outputs
    assert_close(seq.logprobs, reference.logprobs)


# ---------------------------------------------------------------- deferred rows


def test_masks_decide_for_deferred_rows_alone(driver: Driver) -> None:
    free = driver.alone(Seq(driver.prompt(10), SamplingParams(temperature=0, logprobs=3)))
    seq = driver.admit(Seq(free.prompt, deferred=True), row=2)
    plain = driver.admit(Seq(free.prompt), row=1)
    second = free.logprobs[0].top[1][0]
    driver.step(
        [(seq, 10), (plain, 10)], masks={2: bits(driver.vocab_size, {second, free.logprobs[0].top[2][0]})}
    )
    assert seq.outputs == [second]
    assert plain.outputs == free.outputs[:1]
    driver.step([(seq, 1), (plain, 1)], masks={2: bits(driver.vocab_size, {driver.vocab_size - 1})})
    assert seq.outputs == [second, driver.vocab_size - 1]
    assert plain.outputs == free.outputs[:2]


def test_a_mask_of_ones_changes_nothing(driver: Driver) -> None:
    params = SamplingParams(temperature=0.9, logprobs=1)
    free = driver.alone(Seq(driver.prompt(10), params, seed=12))
    seq = driver.admit(Seq(free.prompt, params, seed=12, deferred=True), row=2)
    ones = np.full(math.ceil(driver.vocab_size / 32), 0xFFFFFFFF, dtype=np.uint32)
    while not seq.ended:
        driver.step([(seq, seq.pending)], masks={2: ones})
    assert seq.outputs == free.outputs
    assert_close(seq.logprobs, free.logprobs)


def test_a_prefill_chunk_of_a_deferred_row_waits_for_no_mask(driver: Driver) -> None:
    free = driver.alone(Seq(driver.prompt(10)))
    seq = driver.admit(Seq(free.prompt, GREEDY, deferred=True), row=2)
    driver.step([(seq, 6)])
    assert seq.outputs == []
    driver.step([(seq, 4)], masks={2: bits(driver.vocab_size, set(range(driver.vocab_size)))})
    assert seq.outputs == free.outputs[:1]
