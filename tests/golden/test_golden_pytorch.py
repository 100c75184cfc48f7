"""The pytorch engine's sampler against the golden vectors: row by row, and many rows at once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import CASES, golden_logits, golden_mask, golden_params

from deploykit.engine.pytorch.sampler import Draw, Drawn, sample
from deploykit.engine.sampling import is_plain_greedy


def draw_of(case: dict[str, Any]) -> Draw:
    params = golden_params(case)
    return Draw(
        params=params,
        seed=case["seed"],
        prompt=np.array(case["prompt_ids"], dtype=np.int32),
        output=np.array(case["output_ids"], dtype=np.int32),
        eos=tuple(case["eos_ids"]),
        plain=is_plain_greedy(params) and params.logprobs is None,
        mask=golden_mask(case),
    )


def check(case: dict[str, Any], drawn: Drawn) -> None:
    expected = case["expected"]
    if "error" in expected:
        assert drawn.error is not None, case["name"]
        assert drawn.error[0] == expected["error"], case["name"]
        return
    assert drawn.error is None, case["name"]
    assert drawn.token == expected["token"], case["name"]
    if golden_params(case).logprobs is None:
        assert drawn.logprob is None
        return
    assert drawn.logprob is not None
    assert drawn.logprob.rank == expected["rank"]
    assert drawn.logprob.logprob == pytest.approx(expected["logprob"], abs=1e-4)
    assert [i for i, _ in drawn.logprob.top] == [i for i, _ in expected["top"]]
    assert [v for _, v in drawn.logprob.top] == pytest.approx([v for _, v in expected["top"]], abs=1e-4)


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_golden_alone(case: dict[str, Any]) -> None:
    logits = torch.from_numpy(golden_logits(case))[None]
    (drawn,) = sample(logits, [draw_of(case)])
    check(case, drawn)


def test_golden_in_batches() -> None:
    """All cases of one vocabulary in one call: nothing of a row reaches another, failing rows included."""
    by_vocab: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for case in CASES:
        by_vocab[case["logits"]["vocab"]].append(case)
    for cases in by_vocab.values():
        logits = torch.from_numpy(np.stack([golden_logits(case) for case in cases]))
        for case, drawn in zip(cases, sample(logits, [draw_of(case) for case in cases]), strict=True):
            check(case, drawn)
