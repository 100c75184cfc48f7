"""The edges of the numpy reference of docs/sampling.md; the golden vectors are in tests/golden."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from deploykit.engine import philox, sampling
from deploykit.engine.types import SamplingParams


def test_philox_known_answers() -> None:
    ones = 0xFFFFFFFF
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    known = [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones, ones), (ones,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0xA4093822, 0x299F31D0), pi, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ]
    for key, counter, answer in known:
        assert philox.philox4x32(key, counter) == answer  # type: ignore[arg-type]


def test_uniform_is_open_exact_and_the_same_for_arrays() -> None:
    rng = np.random.default_rng(1)
    seeds = rng.integers(0, 2**64, 500, dtype=np.uint64)
    positions = rng.integers(0, 2**31, 500)
    many = sampling.uniforms(seeds, positions)
    one = [sampling.uniform(int(s), int(p)) for s, p in zip(seeds, positions, strict=True)]
    assert many.tolist() == one
    assert 0 < many.min() < 0.05 < 0.95 < many.max() < 1
    assert sampling.uniform(0, 0) == 0.3990464708489646
    # the two extreme words stay inside (0, 1)
    assert 0 < 0.5 * 2.0**-52
    assert (2**52 - 1 + 0.5) * 2.0**-52 < 1


def test_sibling_seeds() -> None:
    assert sampling.sibling_seed(42, 0) == 42
    assert sampling.sibling_seed(0, 1) == 5840119000542174179
    assert sampling.sibling_seed(42, 3) == 12361186915481706501
    assert len({sampling.sibling_seed(2**64 - 1, i) for i in range(200)}) == 200


def test_inputs_are_not_changed() -> None:
    logits = np.linspace(-3, 3, 64, dtype=np.float32)
    before = logits.copy()
    params = SamplingParams(
        repetition_penalty=1.5, logit_bias={3: 4.0}, bad_words=((7,),), top_k=5, top_p=0.5
    )
    sampling.sample_row(
        logits, params, seed=1, prompt_ids=[1, 2], output_ids=[3], mask=np.full(2, 0xFF, np.uint32)
    )
    assert (logits == before).all()


def test_mask_of_the_wrong_width_fails_the_row() -> None:
    with pytest.raises(sampling.SamplingError) as caught:
        sampling.process(np.zeros(70), SamplingParams(), [], [], (), np.zeros(2, np.uint32))
    assert caught.value.code == "invalid"


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32))
    x = sampling.process(logits, SamplingParams(), [], [])
    drawn = [sampling.draw(x, SamplingParams(), 9, position) for position in range(4000)]
    share = np.bincount(drawn, minlength=4) / 4000
    assert share == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=0.03)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9])
def test_tiny_temperatures_are_greedy_without_overflow(temperature: float) -> None:
    params = SamplingParams(temperature=temperature)
    x = sampling.process(np.array([1.0, 3.0, 2.0]), params, [], [])
    assert sampling.draw(x, params, 3, 0) == 1


def test_equal_infinite_mass_is_split_between_ties_of_the_best() -> None:
    params = SamplingParams(temperature=1e-300)
    x = sampling.process(np.array([3.0, 1.0, 3.0]), params, [], [])
    ids, weights = sampling.candidates(x, params)
    assert weights[ids == 0] == weights[ids == 2] == 1
    assert {sampling.draw(x, params, seed, 0) for seed in range(20)} == {0, 2}


def test_plain_greedy_is_the_argmax_of_raw_logits() -> None:
    assert sampling.is_plain_greedy(SamplingParams(temperature=0, top_k=3, top_p=0.1, min_p=0.2, logprobs=2))
    for field, value in {
        "temperature": 0.1,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "logit_bias": {1: 1.0},
        "bad_words": ((1,),),
        "min_tokens": 1,
    }.items():
        params = msgspec.structs.replace(SamplingParams(temperature=0), **{field: value})
        assert not sampling.is_plain_greedy(params)
