"""Host time from collecting a step to launching the next: what the engine's own bookkeeping costs a step."""

from __future__ import annotations

import time
from collections.abc import Callable

from deploykit.bench import workload as workloads
from deploykit.bench.measure import summarize
from deploykit.bench.report import HostOverhead
from deploykit.bench.workload import Workload
from deploykit.engine.core import EngineCore
from deploykit.engine.fake import fake_plan
from deploykit.engine.protocol import StepOutputs, Submit
from deploykit.engine.transport import frame
from deploykit.engine.types import Capacity, Runner, SamplingParams, Step, StepResult, Ticket, pack
from deploykit.errors import DeploykitError
from deploykit.plan.types import Plan

BLOCK_LEN = 64
WARM_UP = 200  # steps that aren't counted


class TimedRunner:
    """A runner that notes the time between the return of `collect` and the next `launch`."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._collected: float | None = None
        self.gaps: list[float] = []  # seconds

    def load(self, plan: Plan, progress: Callable[[str, float], None]) -> Capacity:
        return self._runner.load(plan, progress)

    def launch(self, step: Step) -> Ticket:
        if self._collected is not None:
            self.gaps.append(time.perf_counter() - self._collected)
            self._collected = None
        return self._runner.launch(step)

    def collect(self, ticket: Ticket) -> StepResult:
        result = self._runner.collect(ticket)
        self._collected = time.perf_counter()
        return result

    def close(self) -> None:
        self._runner.close()


def plan_for(rows: int, session_len: int) -> Plan:
    """Room for every row's whole session."""
    return fake_plan(
        name="host-overhead",
        vocab_size=32000,
        session_len=session_len,
        max_batch_size=rows,
        max_prefill_tokens=2048,
        block_len=BLOCK_LEN,
        block_bytes=BLOCK_LEN,
        num_blocks=2 * rows * -(-session_len // BLOCK_LEN),
    )


def measure(runner: Runner, *, rows: int = 16, steps: int = 2000) -> HostOverhead:
    """Keep `rows` rows busy for `steps` counted steps; each finished request is followed by a new one.

    Between two steps stands all that the engine process does there: results settled, outputs taken and encoded,
    new requests admitted, the next step planned.
    """
    shape = Workload(name="host", prompt_len=64, output_len=256, concurrency=rows, requests=rows)
    plan = plan_for(rows, 2 * shape.session_len)
    timed = TimedRunner(runner)
    capacity = timed.load(plan, lambda stage, fraction: None)
    core = EngineCore(timed, capacity, plan)
    submitted = 0

    def submit() -> None:
        nonlocal submitted
        prompt = workloads.prompts(shape, plan.vocab_size, run=submitted)[0]
        # Lengths differ so that rows end at different steps, as they do under load.
        sampling = SamplingParams(
            temperature=0.0, max_tokens=shape.output_len - submitted % 97, ignore_eos=True
        )
        core.submit(Submit(id=f"r{submitted}", token_ids=pack(prompt), sampling=sampling))
        submitted += 1

    try:
        while len(timed.gaps) < WARM_UP + steps:
            while core.num_requests < rows:
                submit()
            core.step()
            outputs, failures = core.take_events()
            if failures:
                raise DeploykitError("a request of the benchmark failed", why=failures[0][1].reason)
            for items in outputs.values():
                frame(StepOutputs(tuple(items)))
    finally:
        timed.close()
    samples = tuple(round(gap * 1000, 4) for gap in timed.gaps[WARM_UP : WARM_UP + steps])
    summary = summarize(samples)
    if summary is None:
        raise DeploykitError("no step was measured", fix="ask for at least one step")
    return HostOverhead(
        rows=rows, steps=steps, overlap_depth=core.depth, milliseconds=summary, samples_ms=samples
    )
