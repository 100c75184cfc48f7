"""The output head in int8 on a GPU, against the engine and transformers with a head that torch has rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from native_cuda import NOISE, SHAPE, VOCAB, Conversation, by_reference, llama, small_plan
from native_int8_head import relative_error, with_int8_head

from deploykit.checkpoint import read_facts
from deploykit.engine.native.cuda import memory_on_cuda
from deploykit.errors import DeploykitError

PROMPT = np.random.default_rng(7).integers(5, VOCAB, 200).tolist()
# Tokens of a step, whose prompt log probabilities are that many rows of the head: each takes another kernel.
CHUNKS = (1, 7, 40, 200)


class Outcome(NamedTuple):
    capacity: Any
    logprobs: dict[int, Any]  # of the prompt, by the tokens of a step
    tokens: list[int]  # greedy
    drawn: list[Any]  # what was said of each of them


class Case(NamedTuple):
    dtype: str
    folder: Path  # the checkpoint
    reference: Any  # transformers with the rounded head, float32 on the GPU
    error: float  # of the head's weights
    int8: Outcome
    plain: Outcome
    rounded: Outcome  # of a checkpoint whose head is rounded, stored in the dtype


def run(folder: Path, dtype: str, head: str = "auto") -> Outcome:
    from deploykit.engine.native import NativeRunner
    from deploykit.engine.types import SamplingParams

    plan = msgspec.structs.replace(small_plan(folder, dtype, dtype), lm_head_dtype=head)
    runner = NativeRunner()
    capacity = runner.load(plan, lambda *_: None)
    try:
        conversation = Conversation(runner)
        logprobs = {chunk: np.array(conversation.ask(PROMPT, 2, chunk)[0]) for chunk in CHUNKS}
        sampling = SamplingParams(temperature=0.0, max_tokens=24, logprobs=1)
        _, tokens = conversation.ask(PROMPT, 24, 200, sampling)
    finally:
        runner.close()
    return Outcome(capacity, logprobs, tokens, conversation.drawn)


@pytest.fixture(
    scope="module",
    params=[(dtype, tied) for dtype in NOISE for tied in (False, True)],
    ids=lambda param: f"{param[0]}-{'tied' if param[1] else 'own'}",
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    import torch

    dtype, tied = request.param
    torch.manual_seed(0)
    model = llama(tie_word_embeddings=tied).to(getattr(torch, dtype)).eval()
    folder, other = (tmp_path_factory.mktemp(name) for name in ("plain", "rounded"))
    model.save_pretrained(folder)
    error = relative_error(model.lm_head.weight.detach())
    model = with_int8_head(model)
    reference = llama(tie_word_embeddings=False)
    reference.load_state_dict(model.state_dict())
    reference.to(getattr(torch, dtype)).save_pretrained(other)
    reference = reference.float()
    reference.lm_head.weight = model.lm_head.weight  # as torch rounded it, not to 16 bits once more
    return Case(
        dtype=dtype,
        folder=folder,
        reference=reference.cuda().eval(),
        error=error,
        int8=run(folder, dtype, "int8"),
        plain=run(folder, dtype),
        rounded=run(other, dtype),
    )


@pytest.mark.parametrize("chunk", CHUNKS)
def test_int8_head_is_the_rounded_head_and_nothing_else(case: Case, chunk: int) -> None:
    """Everything before the head is the same arithmetic: what is left is one rounding to 16 bits, a fraction of the
    int8 head's own."""
    should = case.rounded.logprobs[chunk]
    off = np.abs(case.int8.logprobs[chunk] - should).mean()
    rounding = np.abs(case.plain.logprobs[chunk] - should).mean()
    assert rounding > 1e-3
    assert off < 0.35 * rounding, (
        f"{off:.5f} to the rounded head, {rounding:.5f} between that and the plain one"
    )


def test_int8_head_says_how_far_its_weights_are_off(case: Case) -> None:
    assert case.int8.capacity.head_error == pytest.approx(case.error, rel=0.01)
    assert case.plain.capacity.head_error is None


def test_int8_head_decodes_as_the_rounded_one(case: Case) -> None:
    mine, theirs = case.int8, case.rounded
    same = [a == b for a, b in zip(mine.tokens, theirs.tokens, strict=True)]
    count = [*same, False].index(False)
    assert count >= 1
    rounding = np.abs(case.plain.logprobs[1] - theirs.logprobs[1]).mean()
    for a, b in zip(mine.drawn[:count], theirs.drawn[:count], strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=2 * rounding)


def test_int8_head_is_that_of_transformers(case: Case) -> None:
    noise = NOISE[case.dtype]
    want, behind = by_reference(case.reference, PROMPT, case.int8.tokens)
    for found in case.int8.logprobs.values():
        assert np.abs(found - want).mean() < noise
    assert behind.max() < 8 * noise  # a near tie may fall the other way


def test_int8_head_takes_the_bytes_that_the_plan_counts(case: Case) -> None:
    facts = read_facts(case.folder)
    planned = []
    for int8 in (False, True):
        rows = {i.name: i.bytes for i in memory_on_cuda(facts, case.dtype, int8_head=int8)(64, 8, 512, 0)}
        planned.append(rows["weights"] + rows["embeddings"] + rows.get("output head", 0))
    held = [outcome.capacity.weight_bytes for outcome in (case.plain, case.int8)]
    size = VOCAB * SHAPE["hidden_size"]
    expected = size + 4 * VOCAB if facts.tie_word_embeddings else 4 * VOCAB - size
    assert held[1] - held[0] == planned[1] - planned[0] == expected
    assert held[1] == pytest.approx(planned[1], rel=0.01)


def test_int8_head_of_what_it_cant_be_made_of_is_refused(tmp_path: Path) -> None:
    import torch

    model = llama(vocab_size=520, tie_word_embeddings=True).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "odd")
    with pytest.raises(DeploykitError) as caught:
        run(tmp_path / "odd", "bfloat16", "int8")
    assert "multiples of 16 and 64" in str(caught.value)
    model = llama().to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight[300, 7] = float("inf")
    model.save_pretrained(tmp_path / "damaged")
    with pytest.raises(DeploykitError) as caught:
        run(tmp_path / "damaged", "bfloat16", "int8")
    assert "head.weight: row 300 has a value that is not finite" in str(caught.value)
