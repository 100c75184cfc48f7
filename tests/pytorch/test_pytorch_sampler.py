"""The vectorised sampler against the golden vectors, one row at a time and all of a width in one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import CASES, golden_logits, golden_mask, golden_params

from deploykit.engine.pytorch.rows import is_plain
from deploykit.engine.pytorch.sampler import Draw, Drawn, sample, token_logprobs


def draw_of(case: dict[str, Any]) -> Draw:
    params = golden_params(case)
    return Draw(
        params=params,
        seed=case["seed"],
        prompt=np.array(case["prompt_ids"], dtype=np.int32),
        output=np.array(case["output_ids"], dtype=np.int32),
        eos=tuple(case["eos_ids"]),
        plain=is_plain(params),
        mask=golden_mask(case),
    )


def check(case: dict[str, Any], drawn: Drawn) -> None:
    expected, params = case["expected"], golden_params(case)
    if "error" in expected:
        assert drawn.error is not None
        assert drawn.error[0] == expected["error"]
        return
    assert drawn.error is None
    assert drawn.token == expected["token"]
    assert (drawn.logprob is None) == (params.logprobs is None)
    (found,) = token_logprobs(
        torch.from_numpy(golden_logits(case))[None], [expected["token"]], [params.logprobs or 0]
    )
    if drawn.logprob is not None:
        assert (drawn.logprob.token, drawn.logprob.rank) == (found.token, found.rank)
        assert [i for i, _ in drawn.logprob.top] == [i for i, _ in found.top]
        # not bit for bit: the two may have been computed on different devices
        assert drawn.logprob.logprob == pytest.approx(found.logprob, abs=1e-6)
    assert found.logprob == pytest.approx(expected["logprob"], abs=1e-6)
    assert found.rank == expected["rank"]
    assert [i for i, _ in found.top] == [i for i, _ in expected["top"]]
    assert [v for _, v in found.top] == pytest.approx([v for _, v in expected["top"]], abs=1e-6)


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_golden_alone(case: dict[str, Any]) -> None:
    logits = torch.from_numpy(golden_logits(case))[None]
    before = logits.clone()
    (drawn,) = sample(logits, [draw_of(case)])
    assert torch.equal(torch.nan_to_num(logits), torch.nan_to_num(before)), "the logits belong to the caller"
    check(case, drawn)


@pytest.mark.parametrize("vocab", sorted({c["logits"]["vocab"] for c in CASES}))
def test_golden_in_one_batch(vocab: int) -> None:
    """A row's result does not depend on the rows beside it, not on their faults either."""
    cases = [c for c in CASES if c["logits"]["vocab"] == vocab]
    logits = torch.stack([torch.from_numpy(golden_logits(c)) for c in cases])
    for case, drawn in zip(cases, sample(logits, [draw_of(c) for c in cases]), strict=True):
        check(case, drawn)


def test_ties_go_to_the_lowest_id() -> None:
    logits = torch.zeros(1, 5000)
    logits[0, [77, 1234, 4999]] = 3.0
    params = golden_params({"params": {"temperature": 0}})
    (drawn,) = sample(logits, [Draw(params, 0, np.zeros(1, np.int32), np.zeros(0, np.int32), (), True)])
    assert drawn.token == 77


def test_top_p_that_needs_more_than_the_first_candidates() -> None:
    """A flat distribution: nearly all of the vocabulary is inside top_p."""
    vocab = 5000
    logits = torch.linspace(0, 0.5, vocab)[None]
    params = golden_params({"params": {"temperature": 1, "top_p": 0.99}})
    draws = [Draw(params, s, np.zeros(1, np.int32), np.zeros(0, np.int32), (), False) for s in range(64)]
    tokens = [d.token for d in sample(logits.expand(64, -1), draws)]
    assert min(tokens) < 600
    assert max(tokens) > 4400
    assert min(tokens) > 10, "the least likely percent is cut"
