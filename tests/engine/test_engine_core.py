"""The engine core over the fake runner, whose tokens come from its KV blocks: a wrong block is a wrong token."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from deploykit.engine.core import EngineBroken, EngineCore
from deploykit.engine.fake import FakeRunner, fake_plan
from deploykit.engine.protocol import Failed, Output, Submit
from deploykit.engine.types import SamplingParams, Step, StepResult, Ticket, pack, unpack
from deploykit.plan.types import Plan

EOS = 7


def make_plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "vocab_size": 512,
        "eos_token_ids": (EOS,),
        "session_len": 256,
        "max_batch_size": 8,
        "max_queue": 64,
        "max_prefill_tokens": 64,
        "block_len": 8,
        "block_bytes": 8,
        "num_blocks": 128,
    }
    return fake_plan(**{**values, **changes})


def make_core(plan: Plan, *, overlap_depth: int = 1) -> EngineCore:
    runner = FakeRunner(overlap_depth=overlap_depth, check=True)
    return EngineCore(runner, runner.load(plan, lambda *_: None), plan)


class Collector:
    """Runs a core to the end and keeps what came out."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.last: dict[tuple[str, int], Output] = {}
        self.first: dict[tuple[str, int], Output] = {}
        self.prompt_logprobs: dict[tuple[str, int], int] = {}
        self.failed: dict[str, Failed] = {}

    def take(self) -> None:
        outputs, failures = self.core.take_events()
        for output in (o for items in outputs.values() for o in items):
            key = (output.id, output.index)
            self.tokens.setdefault(key, []).extend(unpack(output.tokens).tolist())
            self.prompt_logprobs[key] = self.prompt_logprobs.get(key, 0) + len(output.prompt_logprobs)
            self.first.setdefault(key, output)
            self.last[key] = output
        for _, failure in failures:
            self.failed[failure.id] = failure

    def run(self, limit: int = 20_000) -> Collector:
        for _ in range(limit):
            if not self.core.has_work:
                self.take()
                self.core.scheduler.check()
                assert self.core.scheduler.pool.num_held == 0
                assert self.core.num_requests == 0
                return self
            self.core.step()
            self.take()
        raise AssertionError("the core doesn't come to an end")


def request(name: str, prompt: list[int], n: int = 1, **sampling: object) -> Submit:
    values: dict[str, object] = {"temperature": 0.0, "max_tokens": 12, **sampling}
    return Submit(
        id=name,
        token_ids=pack(prompt),
        sampling=SamplingParams(**values),
        n=n,  # type: ignore[arg-type]
    )


def alone(submit: Submit, plan: Plan) -> dict[tuple[str, int], list[int]]:
    core = make_core(plan, overlap_depth=0)
    core.submit(submit)
    return Collector(core).run().tokens


def random_requests(rng: random.Random, count: int) -> Iterator[Submit]:
    shared = [rng.randrange(8, 512) for _ in range(40)]
    for i in range(count):
        prompt = shared[: rng.choice([0, 8, 17, 40])] + [
            rng.randrange(8, 512) for _ in range(rng.randint(1, 30))
        ]
        yield request(
            f"r{i}",
            prompt,
            n=rng.choice([1, 1, 1, 3]),
            max_tokens=rng.randint(1, 40),
            temperature=rng.choice([0.0, 0.8]),
            seed=i,
        )


@pytest.mark.parametrize("overlap_depth", [0, 1])
@pytest.mark.parametrize("seed", range(6))
def test_results_do_not_depend_on_batches_prefixes_or_preemption(overlap_depth: int, seed: int) -> None:
    rng = random.Random(seed)
    requests = list(random_requests(rng, 24))
    plan = make_plan(
        num_blocks=rng.choice([24, 40, 128]), max_prefill_tokens=rng.choice([16, 64]), session_len=120
    )
    expected = {}
    for submit in requests:
        expected |= alone(submit, make_plan(session_len=120, prefix_caching=False, max_prefill_tokens=512))
    core = make_core(plan, overlap_depth=overlap_depth)
    collector = Collector(core)
    waiting = list(requests)
    while waiting or core.has_work:
        for _ in range(rng.randint(0, 3)):
            if waiting:
                core.submit(waiting.pop())
        core.step()
        collector.take()
        if rng.random() < 0.05 and core.scheduler.running:
            core.scheduler.preempt(rng.choice(core.scheduler.running))
        core.scheduler.check()
    collector.run()
    assert not collector.failed
    assert collector.tokens == expected


def test_a_second_prompt_with_the_same_prefix_hits_the_cache() -> None:
    core = make_core(make_plan())
    prompt = list(range(10, 50))
    core.submit(request("a", prompt))
    Collector(core).run()
    core.submit(request("b", prompt))
    second = Collector(core).run()
    assert second.first[("b", 0)].cached_tokens == 32  # whole blocks below the last known token
    core.submit(request("c", [*prompt[:20], 3, *prompt[21:]]))
    assert Collector(core).run().first[("c", 0)].cached_tokens == 16
    core.submit(Submit(id="d", token_ids=pack(prompt), sampling=SamplingParams(max_tokens=2), salt="other"))
    assert Collector(core).run().first[("d", 0)].cached_tokens == 0


@pytest.mark.parametrize("overlap_depth", [0, 1])
def test_a_conversation_computes_only_what_is_new_of_a_turn(overlap_depth: int) -> None:
    core = make_core(make_plan(), overlap_depth=overlap_depth)
    known, stood = list(range(100, 111)), 1
    for turn in range(6):
        submit = request(f"t{turn}", known, max_tokens=5 + turn)
        core.submit(submit)
        collector = Collector(core).run()
        # The last token of the turn before was drawn and never computed, and neither were those added since.
        assert collector.first[(f"t{turn}", 0)].cached_tokens == stood - 1
        assert collector.tokens == alone(submit, make_plan(prefix_caching=False))
        known = [*known, *collector.tokens[(f"t{turn}", 0)]]
        stood = len(known)
        known += [200 + turn] * (turn + 1)


def test_a_sequence_that_needs_the_block_it_could_copy_from_gets_it() -> None:
    core = make_core(make_plan(num_blocks=4, session_len=32))
    core.submit(request("a", list(range(10, 21)), max_tokens=3))
    Collector(core).run()
    submit = request("b", [*range(10, 21), *range(60, 78)], max_tokens=2)  # all four blocks
    core.submit(submit)
    second = Collector(core).run()
    assert second.first[("b", 0)].cached_tokens == 8
    assert second.tokens == alone(submit, make_plan(prefix_caching=False, num_blocks=4, session_len=32))


def test_siblings_share_the_prompt_and_differ_in_their_draws() -> None:
    core = make_core(make_plan())
    core.submit(request("a", list(range(10, 31)), n=4, temperature=1.0, seed=5))
    collector = Collector(core)
    most = 0
    while core.has_work:
        core.step()
        collector.take()
        most = max(most, core.scheduler.pool.num_held)
    assert len({tuple(t) for t in collector.tokens.values()}) == 4
    assert [collector.first[("a", i)].cached_tokens for i in range(4)] == [0, 20, 20, 20]
    assert most < 4 * 5  # 33 tokens are 5 blocks of 8: four of their own would be 20
    core.scheduler.check()


def test_decoding_goes_on_while_a_long_prompt_is_computed() -> None:
    core = make_core(make_plan(max_prefill_tokens=16), overlap_depth=0)
    collector = Collector(core)
    core.submit(request("short", [9, 10, 11], max_tokens=30, ignore_eos=True))
    core.step()
    core.submit(request("long", list(range(10, 200)), max_tokens=5))
    for _ in range(6):
        core.step()
        collector.take()
    assert len(collector.tokens[("short", 0)]) == 7
    assert ("long", 0) not in collector.tokens


def test_priority_goes_before_arrival() -> None:
    core = make_core(make_plan(max_batch_size=1), overlap_depth=0)
    collector = Collector(core)
    order: list[str] = []
    for name, priority in (("first", 0), ("later", 1), ("urgent", -1)):
        core.submit(
            Submit(
                id=name,
                token_ids=pack([9, 10]),
                sampling=SamplingParams(max_tokens=3),
                priority=priority,
            )
        )
    while core.has_work:
        core.step()
        collector.take()
        order += [k[0] for k, o in collector.last.items() if o.finish and k[0] not in order]
    assert order == ["urgent", "first", "later"]


def test_abort_frees_blocks_at_once_and_twice_does_nothing() -> None:
    core = make_core(make_plan())
    core.submit(request("a", list(range(10, 60)), n=2, max_tokens=100, ignore_eos=True))
    for _ in range(8):
        core.step()
    assert core.scheduler.pool.num_held > 0
    core.abort("a")
    core.abort("a")
    assert core.scheduler.pool.num_held == 0
    assert core.counters.aborted == 1
    Collector(core).run()


def test_a_connection_that_goes_takes_its_requests_along() -> None:
    core = make_core(make_plan())
    for connection in (1, 2):
        core.submit(request("same-id", [9, 10, 11], max_tokens=50, ignore_eos=True), connection)
    for _ in range(3):
        core.step()
    core.abort_connection(1)
    while core.has_work:
        core.step()
    outputs, _ = core.take_events()
    assert set(outputs) == {2}


@pytest.mark.parametrize(
    ("submit", "code"),
    [
        (Submit(id="x", token_ids=b"", sampling=SamplingParams()), "invalid"),
        (Submit(id="x", token_ids=b"abc", sampling=SamplingParams()), "invalid"),
        (request("x", [512]), "invalid"),
        (request("x", [-1]), "invalid"),
        (request("x", [9], n=0), "invalid"),
        (request("x", [9] * 256), "too_long"),
        (Submit(id="x", token_ids=pack([9]), sampling=SamplingParams(), adapter="a"), "unsupported"),
    ],
)
def test_a_bad_request_fails_and_leaves_nothing(submit: Submit, code: str) -> None:
    core = make_core(make_plan())
    core.submit(submit)
    assert Collector(core).run().failed["x"].code == code


def test_output_stops_at_the_session_and_zero_tokens_are_zero() -> None:
    core = make_core(make_plan())
    core.submit(request("full", [9] * 250, max_tokens=100, ignore_eos=True))
    core.submit(request("none", [9] * 10, max_tokens=0))
    core.submit(request("score", [9] * 10, max_tokens=0, prompt_logprobs=2))
    collector = Collector(core).run()
    assert len(collector.tokens[("full", 0)]) == 6
    assert collector.last[("full", 0)].finish == "length"
    assert collector.tokens[("none", 0)] == []
    assert collector.first[("none", 0)].prompt_tokens == 10
    assert collector.prompt_logprobs[("score", 0)] == 9
    assert collector.last[("score", 0)].finish == "length"


def test_prompt_logprobs_come_once_each_across_chunks_and_preemption() -> None:
    plan = make_plan(max_prefill_tokens=16)
    expected = None
    for preempt_at in (None, 2, 3):
        core = make_core(plan, overlap_depth=0)
        core.submit(request("a", list(range(10, 60)), prompt_logprobs=1, max_tokens=4))
        entries = []
        for i in range(40):
            if i == preempt_at:
                core.scheduler.preempt(core.scheduler.running[0])
            core.step()
            outputs, _ = core.take_events()
            entries += [e for o in outputs.get(0, []) for e in o.prompt_logprobs]
        assert [e.token for e in entries] == list(range(11, 60))
        assert expected is None or entries == expected
        expected = entries


def test_a_deadline_ends_a_request() -> None:
    core = make_core(make_plan())
    core.submit(Submit(id="a", token_ids=pack([9]), sampling=SamplingParams(max_tokens=99), deadline_s=0.0))
    core.expire(float("inf"))
    assert Collector(core).run().failed["a"].code == "timeout"


class Faulty(FakeRunner):
    """Fails the whole step, without a word on who, whenever the row of the poisoned prompt is in it."""

    def __init__(self, poison: int, at: str = "collect", **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.poison = poison
        self.at = at
        self.poisoned: set[tuple[int, int]] = set()

    def launch(self, step: Step) -> Ticket:
        for admit in step.admits:
            if self.poison in unpack(admit.tokens)[: admit.prompt_len]:
                self.poisoned.add((admit.row, admit.epoch))
        self.bad = {
            step.seq
            for row, epoch in zip(unpack(step.rows).tolist(), unpack(step.epochs).tolist(), strict=True)
            if (row, epoch) in self.poisoned
        }
        if self.bad and self.at == "launch":
            raise RuntimeError("scripted, and nothing of the step was applied")
        ticket = super().launch(step)
        self.failing = getattr(self, "failing", set()) | self.bad
        return ticket

    def collect(self, ticket: Ticket) -> StepResult:
        result = super().collect(ticket)
        if ticket.seq in self.failing:
            raise RuntimeError("scripted")
        return result


@pytest.mark.parametrize("at", ["launch", "collect"])
@pytest.mark.parametrize("overlap_depth", [0, 1])
def test_a_step_that_fails_costs_only_the_request_that_made_it_fail(overlap_depth: int, at: str) -> None:
    plan = make_plan()
    requests = [request(f"r{i}", [20 + i, 30, 40], max_tokens=20) for i in range(5)]
    expected = {}
    for submit in requests:
        expected |= alone(submit, plan)
    runner = Faulty(poison=500, at=at, overlap_depth=overlap_depth, check=True)
    core = EngineCore(runner, runner.load(plan, lambda *_: None), plan)
    for submit in [*requests[:2], request("bad", [500, 9], max_tokens=20), *requests[2:]]:
        core.submit(submit)
    collector = Collector(core).run()
    assert set(collector.failed) == {"bad"}
    assert collector.failed["bad"].code == "internal"
    assert {k: v for k, v in collector.tokens.items() if k[0] != "bad"} == expected


def test_a_runner_that_always_fails_is_given_up() -> None:
    plan = make_plan()
    runner = Faulty(poison=9, overlap_depth=0, check=True)
    core = EngineCore(runner, runner.load(plan, lambda *_: None), plan)
    for i in range(5):
        core.submit(request(f"r{i}", [9, 10 + i]))
    with pytest.raises(EngineBroken):
        Collector(core).run()
