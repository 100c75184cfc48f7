"""The fake runner's own promises: a model that is a hash, and a KV memory that notices what a scheduler does wrong.

That it behaves as every runner does is the conformance suite's matter (tests/conformance).
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from deploykit.engine.fake import FakeRunner
from deploykit.engine.fake_model import FakeModel
from deploykit.engine.faults import Faults, ScriptedFault, parse_faults
from deploykit.engine.types import (
    Admit,
    Copy,
    Extend,
    Release,
    RowFailure,
    RunnerError,
    SamplingParams,
    Step,
    StepResult,
    Want,
    pack,
    unpack,
)
from deploykit.plan.types import Plan

GREEDY = SamplingParams(temperature=0)
PROMPT = list(range(40, 51))  # 11 tokens: a full block of 8 and a part of one


def make_plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "name": "fake",
        "engine": "fake",
        "device": "cpu",
        "model_path": "",
        "architecture": "Fake",
        "dtype": "float32",
        "kv_dtype": "float32",
        "vocab_size": 256,
        "session_len": 128,
        "max_batch_size": 4,
        "max_prefill_tokens": 64,
        "block_len": 8,
        "block_bytes": 32,
        "num_blocks": 16,
    }
    return Plan(**(fields | changes))


def make_runner(*, faults: str = "", **options: Any) -> FakeRunner:
    runner = FakeRunner(faults=Faults(parse_faults(faults) if faults else ()), **options)
    runner.load(make_plan(), lambda stage, fraction: None)
    return runner


def admit(row: int, tokens: list[int], epoch: int = 1, computed: int = 0) -> Admit:
    return Admit(
        row=row,
        epoch=epoch,
        tokens=pack(tokens),
        prompt_len=len(tokens),
        computed=computed,
        limit=100,
        sampling=GREEDY,
        seed=0,
    )


def make_step(work: list[tuple[int, int, int]], **news: Any) -> Step:
    """`work`: (row, epoch, num_tokens), all sampled."""
    return Step(
        seq=news.pop("seq", 0),
        rows=pack([w[0] for w in work]),
        epochs=pack([w[1] for w in work]),
        num_tokens=pack([w[2] for w in work]),
        flags=pack([news.pop("flags", int(Want.SAMPLE))] * len(work)),
        **news,
    )


def run(runner: FakeRunner, work: list[tuple[int, int, int]], **news: Any) -> StepResult:
    return runner.collect(runner.launch(make_step(work, **news)))


def tokens_of(result: StepResult) -> list[int]:
    return unpack(result.tokens).tolist()


def reference() -> list[int]:
    """The first two tokens after PROMPT."""
    runner = make_runner()
    first = run(runner, [(0, 1, 11)], admits=(admit(0, PROMPT),), extends=(Extend(0, 1, 0, (3, 7)),))
    return tokens_of(first) + tokens_of(run(runner, [(0, 1, 1)]))


# ---------------------------------------------------------------- the model


def test_greedy_is_the_argmax_of_the_logits_and_never_past_the_vocabulary() -> None:
    model = FakeModel(1000, (0, 2))
    state, tokens = model.start, []
    for _ in range(3000):
        token = model.greedy(state)
        assert token == int(np.argmax(model.logits(state)))
        tokens.append(token)
        state = model.advance(state, token)
    assert len(set(tokens)) > 900  # it wanders over the whole vocabulary
    assert 2 not in tokens
    assert tokens.count(0) < 10  # the first EOS id comes up, rarely


def test_every_earlier_token_matters() -> None:
    model = FakeModel(50000)

    def after(tokens: list[int]) -> int:
        state = model.start
        for token in tokens:
            state = model.advance(state, token)
        return model.greedy(state)

    base = list(range(30))
    changed = [after([*base[:i], base[i] + 1, *base[i + 1 :]]) for i in range(30)]
    swapped = after([1, 0, *base[2:]])
    assert len({after(base), swapped, *changed}) == 32


# ---------------------------------------------------------------- mistakes of a scheduler


def assert_noticed(result: StepResult, row: int, text: str) -> None:
    (failure,) = result.failures
    assert (failure.row, failure.code) == (row, "kv_mismatch")
    assert text in failure.reason


@pytest.mark.parametrize("check", [False, True])
def test_a_prefix_hit_on_the_wrong_block(check: bool) -> None:
    runner = make_runner(check=check)
    other = [token + 1 for token in PROMPT]
    run(runner, [(0, 1, 11)], admits=(admit(0, other),), extends=(Extend(0, 1, 0, (3, 7)),))
    result = run(
        runner, [(1, 1, 3)], admits=(admit(1, PROMPT, computed=8),), extends=(Extend(1, 1, 0, (3, 9)),)
    )
    if check:
        assert_noticed(result, 1, "block 3 holds token 41 at position 0, where the row has token 40")
    else:
        assert tokens_of(result) != reference()[:1]


@pytest.mark.parametrize("check", [False, True])
def test_a_sibling_whose_partial_block_was_not_copied(check: bool) -> None:
    runner = make_runner(check=check)
    run(runner, [(0, 1, 11)], admits=(admit(0, PROMPT),), extends=(Extend(0, 1, 0, (3, 7)),))
    news = {"admits": (admit(1, PROMPT, computed=10),), "extends": (Extend(1, 1, 0, (3, 9)),)}
    result = run(runner, [(1, 1, 1)], **news)
    if check:
        assert_noticed(result, 1, "block 9 holds poison at position 8")
    else:
        assert tokens_of(result) != reference()[:1]
    copied = make_runner(check=check)
    run(copied, [(0, 1, 11)], admits=(admit(0, PROMPT),), extends=(Extend(0, 1, 0, (3, 7)),))
    assert tokens_of(run(copied, [(1, 1, 1)], copies=(Copy(7, 9),), **news)) == reference()[:1]


def test_a_block_given_to_two_rows() -> None:
    runner = make_runner(check=True)
    run(runner, [(0, 1, 11)], admits=(admit(0, PROMPT),), extends=(Extend(0, 1, 0, (3, 7)),))
    result = run(runner, [(1, 1, 4)], admits=(admit(1, [1, 2, 3, 4]),), extends=(Extend(1, 1, 0, (7,)),))
    assert_noticed(result, 1, "are written to block 7, which 2 rows hold")


def test_a_block_taken_from_a_running_row_shows_as_a_wrong_token_without_checks() -> None:
    runner = make_runner()
    run(runner, [(0, 1, 11)], admits=(admit(0, PROMPT),), extends=(Extend(0, 1, 0, (3, 7)),))
    run(runner, [(1, 1, 8)], admits=(admit(1, [9] * 8),), extends=(Extend(1, 1, 0, (3,)),))
    # the row is preempted and comes back upon its old first block, which is somebody else's now
    tokens = PROMPT + reference()[:1]
    result = run(
        runner,
        [(0, 2, 4)],
        releases=(Release(0, 1),),
        admits=(admit(0, tokens, epoch=2, computed=8),),
        extends=(Extend(0, 2, 0, (3, 7)),),
    )
    assert tokens_of(result) != reference()[1:]


def test_what_was_computed_stays_in_blocks_that_are_let_go_and_the_rest_is_poisoned() -> None:
    runner = make_runner(check=True)
    run(runner, [(0, 1, 11)], admits=(admit(0, PROMPT),), extends=(Extend(0, 1, 0, (3, 7)),))
    news: dict[str, Any] = {"releases": (Release(0, 1),), "admits": (admit(1, PROMPT, computed=8),)}
    result = run(runner, [(1, 1, 3)], extends=(Extend(1, 1, 0, (3, 9)),), **news)
    assert tokens_of(result) == reference()[:1]
    news = {"releases": (Release(1, 1),), "admits": (admit(1, PROMPT, epoch=2, computed=8),)}
    run(runner, [(1, 2, 1)], extends=(Extend(1, 2, 0, (3, 9)),), **news)
    runner.collect(runner.launch(make_step([], releases=(Release(1, 2),))))
    result = run(
        runner, [(2, 1, 1)], admits=(admit(2, PROMPT, computed=10),), extends=(Extend(2, 1, 0, (3, 9)),)
    )
    assert_noticed(result, 2, "block 9 holds poison")


@pytest.mark.parametrize(
    ("work", "news", "text"),
    [
        ((0, 1, 11), {"extends": (Extend(0, 1, 0, (3,)),)}, "position 10 has no block"),
        ((0, 1, 12), {"extends": (Extend(0, 1, 0, (3, 7)),)}, "the row knows 11"),
        ((0, 1, 10), {"extends": (Extend(0, 1, 0, (3, 7)),)}, "the row knows 11"),
    ],
)
def test_impossible_work_fails_its_row(work: tuple[int, int, int], news: dict[str, Any], text: str) -> None:
    result = run(make_runner(), [work], admits=(admit(0, PROMPT),), **news)
    (failure,) = result.failures
    assert (failure.row, failure.code) == (0, "invalid")
    assert text in failure.reason


@pytest.mark.parametrize(
    "news",
    [
        {"extends": (Extend(0, 2, 0, (3,)),)},
        {"extends": (Extend(0, 1, 1, (3,)),)},
        {"extends": (Extend(0, 1, 0, (16,)),)},
        {"copies": (Copy(0, 99),)},
        {"admits": (admit(4, PROMPT),)},
        {"admits": (admit(0, PROMPT, epoch=2),)},
    ],
)
def test_a_step_that_contradicts_itself_is_refused(news: dict[str, Any]) -> None:
    runner = make_runner()
    run(runner, [], admits=(admit(0, PROMPT),))
    with pytest.raises(RunnerError):
        run(runner, [], **news)


# ---------------------------------------------------------------- steps in flight


def test_depth_0_refuses_a_second_launch() -> None:
    runner = make_runner()
    runner.launch(make_step([], seq=1))
    with pytest.raises(RunnerError, match="step 2 was launched before step 1 was collected"):
        runner.launch(make_step([], seq=2))


def test_steps_that_nobody_collects_still_happen_in_order() -> None:
    """After a failure the loop forgets what was in flight; rows and blocks stay right."""
    runner = make_runner(overlap_depth=1)
    runner.launch(make_step([(0, 1, 11)], admits=(admit(0, PROMPT),), extends=(Extend(0, 1, 0, (3, 7)),)))
    assert tokens_of(run(runner, [(0, 1, 1)])) == reference()[1:]


def test_a_ticket_is_collected_once() -> None:
    runner = make_runner()
    ticket = runner.launch(make_step([]))
    runner.collect(ticket)
    with pytest.raises(RunnerError, match="not in flight"):
        runner.collect(ticket)


def test_deferred_rows_need_their_masks() -> None:
    flags = int(Want.SAMPLE | Want.DEFERRED)
    news: dict[str, Any] = {"admits": (admit(0, PROMPT),), "extends": (Extend(0, 1, 0, (3, 7)),)}
    with pytest.raises(RunnerError, match=r"Ticket\.sample"):
        run(make_runner(), [(0, 1, 11)], flags=flags, **news)
    runner = make_runner()
    ticket = runner.launch(make_step([(0, 1, 11)], flags=flags, **news))
    ticket.sample({})
    (failure,) = runner.collect(ticket).failures
    assert failure.code == "invalid"


def test_a_delay_runs_beside_the_host_where_steps_overlap() -> None:
    runner = make_runner(overlap_depth=1, delay=0.001)
    first, second = runner.launch(make_step([])), runner.launch(make_step([]))
    assert second.ready_at == pytest.approx(first.ready_at + 0.001)
    runner.collect(second)


def test_unsupported_wants_and_admissions_fail_their_row() -> None:
    runner = make_runner()
    news: dict[str, Any] = {"admits": (admit(0, PROMPT),), "extends": (Extend(0, 1, 0, (3, 7)),)}
    (failure,) = run(runner, [(0, 1, 11)], flags=int(Want.POOL), **news).failures
    assert failure.code == "unsupported"
    strange = [admit(0, [300]), admit(0, [1, 2], computed=2), admit(0, [-1])]
    for epoch, wrong in enumerate(strange, start=2):
        wrong = msgspec.structs.replace(wrong, epoch=epoch)
        (failure,) = run(runner, [(0, epoch, 1)], releases=(Release(0, epoch - 1),), admits=(wrong,)).failures
        assert failure.code == "invalid"


# ---------------------------------------------------------------- scripted faults


def test_a_raised_step_leaves_the_books_right() -> None:
    runner = make_runner(faults="engine.step:raise@2", check=True)
    news: dict[str, Any] = {"admits": (admit(0, PROMPT),), "extends": (Extend(0, 1, 0, (3, 7)),)}
    first = run(runner, [(0, 1, 11)], **news)
    again = admit(1, PROMPT + tokens_of(first))
    with pytest.raises(ScriptedFault, match=r"engine\.step:raise@2"):
        run(
            runner,
            [(1, 1, 12)],
            releases=(Release(0, 1),),
            admits=(again,),
            extends=(Extend(1, 1, 0, (5, 6)),),
        )
    # row 1 is preempted by the loop, and takes the row that was released in the failed step
    back = admit(0, PROMPT + tokens_of(first), epoch=2)
    second = run(
        runner, [(0, 2, 12)], releases=(Release(1, 1),), admits=(back,), extends=(Extend(0, 2, 0, (6, 5)),)
    )
    assert tokens_of(first) + tokens_of(second) == reference()


def test_a_failed_row_is_named_and_stays_failed() -> None:
    runner = make_runner(faults="engine.row:fail@1")
    admits = (admit(0, PROMPT), admit(1, PROMPT))
    extends = (Extend(0, 1, 0, (3, 7)), Extend(1, 1, 0, (4, 8)))
    result = run(runner, [(0, 1, 11), (1, 1, 11)], admits=admits, extends=extends)
    assert result.failures == (RowFailure(0, 1, "fault", "a scripted fault"),)
    assert tokens_of(result) == reference()[:1]
    result = run(runner, [(0, 1, 1), (1, 1, 1)])
    assert result.failures == ()
    assert tokens_of(result) == reference()[1:]


def test_a_load_that_fails() -> None:
    runner = FakeRunner(faults=Faults(parse_faults("engine.load:raise")))
    with pytest.raises(ScriptedFault):
        runner.load(make_plan(), lambda stage, fraction: None)
    with pytest.raises(RunnerError, match="not loaded"):
        runner.launch(make_step([]))
