"""The numpy reference of docs/sampling.md against the golden vectors."""

from __future__ import annotations

from typing import Any

import pytest
from golden_cases import CASES, golden_kept, golden_logits, golden_mask, golden_params

from deploykit.engine import sampling


def run(case: dict[str, Any]) -> sampling.Sampled:
    return sampling.sample_row(
        golden_logits(case),
        golden_params(case),
        seed=case["seed"],
        prompt_ids=case["prompt_ids"],
        output_ids=case["output_ids"],
        eos_ids=case["eos_ids"],
        mask=golden_mask(case),
    )


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_golden(case: dict[str, Any]) -> None:
    expected, params = case["expected"], golden_params(case)
    if "error" in expected:
        with pytest.raises(sampling.SamplingError) as caught:
            run(case)
        assert caught.value.code == expected["error"]
        return
    x = sampling.process(
        golden_logits(case),
        params,
        case["prompt_ids"],
        case["output_ids"],
        case["eos_ids"],
        golden_mask(case),
    )
    kept, weights = sampling.candidates(x, params)
    assert kept.tolist() == golden_kept(case)
    assert (weights >= 0).all()
    assert weights.max() == 1
    sampled = run(case)
    assert sampled.token == expected["token"]
    lp = sampling.token_logprob(golden_logits(case), expected["token"], params.logprobs or 0)
    assert (sampled.logprob is None) == (params.logprobs is None)
    assert sampled.logprob in (None, lp)
    assert lp.logprob == pytest.approx(expected["logprob"], abs=1e-9)
    assert lp.rank == expected["rank"]
    assert [i for i, _ in lp.top] == [i for i, _ in expected["top"]]
    assert [v for _, v in lp.top] == pytest.approx([v for _, v in expected["top"]], abs=1e-9)


def test_golden_cases_are_many_and_clear_of_boundaries() -> None:
    assert len(CASES) >= 120
    assert len({c["name"] for c in CASES}) == len(CASES)
    assert all(c["expected"].get("margin", 1) >= 1e-4 for c in CASES)
    assert {c["expected"].get("error") for c in CASES} == {None, "no_token", "nonfinite_logits", "invalid"}
