"""What a step carries: rows that decode first, prompts the rest, and no prompt in more chunks than it may have."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from test_engine_core import Collector, alone, make_plan, request

from deploykit.engine.core import EngineCore
from deploykit.engine.fake import FakeRunner
from deploykit.engine.protocol import Submit
from deploykit.engine.types import Capacity, Step, Ticket, unpack
from deploykit.plan.types import Plan


@dataclass
class Watched:
    """A core whose steps are judged as they are launched."""

    plan: Plan
    depth: int = 0
    steps: list[dict[int, int]] = field(default_factory=list)  # row -> tokens
    chunks: dict[tuple[int, int], int] = field(
        default_factory=dict
    )  # (row, epoch) -> steps that read its prompt

    def __post_init__(self) -> None:
        runner = FakeRunner(overlap_depth=self.depth, check=True)
        capacity: Capacity = runner.load(self.plan, lambda *_: None)
        assert capacity.max_step_tokens == self.plan.step_capacity
        launch = runner.launch

        def watched(step: Step) -> Ticket:
            rows = unpack(step.rows).tolist()
            tokens = dict(zip(rows, unpack(step.num_tokens).tolist(), strict=True))
            self.judge(step, tokens)
            self.steps.append(tokens)
            return launch(step)

        runner.launch = watched  # type: ignore[method-assign, assignment]
        self.core = EngineCore(runner, capacity, self.plan)

    def judge(self, step: Step, tokens: dict[int, int]) -> None:
        scheduler, plan = self.core.scheduler, self.plan
        admitted = {admit.row for admit in step.admits}
        prompts = 0
        for row, epoch in zip(unpack(step.rows).tolist(), unpack(step.epochs).tolist(), strict=True):
            count = tokens[row]
            if row in admitted or count > 1:
                prompts += count
                self.chunks[row, epoch] = self.chunks.get((row, epoch), 0) + 1
        for sequence in scheduler.running:  # `computed` counts this step already
            decodes = sequence.known > sequence.prompt_len and sequence.row not in admitted
            if decodes and sequence.row not in tokens:
                assert sequence.known >= sequence.limit or sequence.pending > 1
        assert sum(tokens.values()) <= plan.step_capacity
        if plan.max_prefill_chunks is None:
            assert sum(tokens.values()) <= (plan.max_step_tokens or plan.max_prefill_tokens)
            assert prompts <= plan.max_prefill_tokens

    def run(self, requests: list[Submit], rng: random.Random | None = None) -> Collector:
        collector = Collector(self.core)
        waiting = list(requests)
        while waiting:
            for _ in range(rng.randint(0, 2) if rng else len(waiting)):
                if waiting:
                    self.core.submit(waiting.pop(0))
            self.core.step()
            collector.take()
            self.core.scheduler.check()
        return collector.run()


def long_prompt(length: int, salt: int = 0) -> list[int]:
    return [8 + (salt * 37 + i * 5) % 500 for i in range(length)]


def decoding(watched: Watched, count: int) -> None:
    """`count` requests that have read their prompts and draw tokens."""
    for i in range(count):
        watched.core.submit(request(f"d{i}", long_prompt(3, i), max_tokens=60, ignore_eos=True))
    for _ in range(3 * count):
        watched.core.step()
    assert sum(s.pending <= 1 for s in watched.core.scheduler.running) == count
    watched.steps.clear()
    watched.chunks.clear()


def test_rows_that_decode_have_their_token_before_a_prompt_that_stands_before_them() -> None:
    watched = Watched(make_plan(max_prefill_tokens=16, max_step_tokens=16))
    decoding(watched, 5)
    urgent = Submit(**{**_fields(request("long", long_prompt(95), max_tokens=2)), "priority": -1})
    watched.core.submit(urgent)
    while len(watched.chunks) == 0 or any(s.pending > 1 for s in watched.core.scheduler.running):
        watched.core.step()
    reading = [step for step in watched.steps if max(step.values()) > 1]
    assert [sorted(step.values()) for step in reading[:-1]] == [[1] * 5 + [11]] * (len(reading) - 1)
    assert [max(step.values()) for step in reading] == [11] * 8 + [7]


def test_a_prompt_may_have_less_of_a_step_than_decoding_leaves() -> None:
    watched = Watched(make_plan(max_prefill_tokens=4, max_step_tokens=32))
    decoding(watched, 5)
    watched.core.submit(request("long", long_prompt(40), max_tokens=2))
    while len(watched.chunks) == 0 or any(s.pending > 1 for s in watched.core.scheduler.running):
        watched.core.step()
    assert [max(step.values()) for step in watched.steps if max(step.values()) > 1] == [4] * 10


def test_without_the_keys_a_step_is_what_max_prefill_tokens_says() -> None:
    watched = Watched(make_plan(max_prefill_tokens=16))
    assert watched.plan.step_capacity == 16
    watched.run([request("a", long_prompt(100), max_tokens=1)])
    assert [sum(step.values()) for step in watched.steps] == [16] * 6 + [4]


@pytest.mark.parametrize("busy", [0, 5])
def test_a_step_grows_where_a_prompt_would_take_more_chunks_than_it_may(busy: int) -> None:
    watched = Watched(make_plan(max_prefill_tokens=86, max_step_tokens=16, max_prefill_chunks=3))
    decoding(watched, busy)
    watched.core.submit(request("short", long_prompt(20, 9), max_tokens=1))
    watched.core.step()
    assert max(watched.steps[-1].values()) == 16 - busy  # two chunks do: nothing grows
    watched.core.step()
    watched.core.submit(request("long", long_prompt(200), max_tokens=2))
    watched.steps.clear()
    while watched.core.num_requests > busy:
        watched.core.step()
    chunks = [max(step.values()) for step in watched.steps if max(step.values()) > 1]
    assert chunks == [67, 67, 66]
    assert all(len(step) == busy + 1 for step in watched.steps if max(step.values()) > 1)


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("seed", range(8))
def test_results_and_bounds_hold_under_load(seed: int, depth: int) -> None:
    rng = random.Random(seed)
    chunks = rng.choice([None, 1, 2, 4])
    session = 200
    step = rng.choice([9, 16, 40])
    prefill = rng.randint(1, step) if chunks is None else max(step, -(-session // chunks))
    plan = make_plan(
        session_len=session,
        max_batch_size=8,
        max_prefill_tokens=prefill,
        max_step_tokens=step,
        max_prefill_chunks=chunks,
        num_blocks=rng.choice([60, 240]),
    )
    requests = list(_requests(rng, 20))
    expected = {}
    for submit in requests:
        expected |= alone(
            submit, make_plan(session_len=session, prefix_caching=False, max_prefill_tokens=512)
        )
    watched = Watched(plan, depth)
    collector = watched.run(requests, rng)
    assert not collector.failed
    assert collector.tokens == expected
    if chunks is not None:
        assert max(watched.chunks.values()) <= chunks


def _requests(rng: random.Random, count: int) -> Iterator[Submit]:
    for i in range(count):
        prompt = [rng.randrange(8, 512) for _ in range(rng.choice([1, 5, 30, 90, 150]))]
        submit = request(f"r{i}", prompt, max_tokens=rng.randint(1, 40), seed=i)
        yield Submit(**{**_fields(submit), "priority": rng.choice([0, 0, -1, 1])})


def _fields(submit: Submit) -> dict[str, object]:
    return {name: getattr(submit, name) for name in submit.__struct_fields__}
