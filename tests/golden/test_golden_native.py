"""The native engine's sampler against the golden vectors."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from golden_cases import CASES, golden_logits, golden_mask, golden_params

from deploykit.engine.native.library import open_library
from deploykit.errors import DeploykitError


@pytest.fixture(scope="module")
def native() -> ModuleType:
    try:
        return open_library()
    except DeploykitError as error:
        pytest.skip(f"the native library is not there: {error}")


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_golden(native: ModuleType, case: dict[str, Any]) -> None:
    params = golden_params(case)
    token, logprob, error = native.sample_logits(
        golden_logits(case),
        params,
        case["seed"],
        case["prompt_ids"],
        case["output_ids"],
        case["eos_ids"],
        golden_mask(case),
    )
    expected = case["expected"]
    if "error" in expected:
        assert error is not None
        assert error[0] == expected["error"]
        return
    assert error is None
    assert token == expected["token"]
    if params.logprobs is None:
        assert logprob is None
        return
    assert logprob[0] == token
    assert logprob[1] == pytest.approx(expected["logprob"], abs=1e-4)
    assert logprob[2] == expected["rank"]
    assert [i for i, _ in logprob[3]] == [i for i, _ in expected["top"]]
    assert [v for _, v in logprob[3]] == pytest.approx([v for _, v in expected["top"]], abs=1e-4)


@pytest.mark.parametrize("case", CASES[::7], ids=[c["name"] for c in CASES[::7]])
def test_the_callers_logits_stay_as_they_are(native: ModuleType, case: dict[str, Any]) -> None:
    logits = golden_logits(case)
    before = logits.tobytes()
    mask = golden_mask(case)
    ids = (case["prompt_ids"], case["output_ids"], case["eos_ids"])
    native.sample_logits(logits, golden_params(case), case["seed"], *ids, mask)
    assert np.asarray(logits).tobytes() == before
