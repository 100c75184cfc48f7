"""The fake runner: the whole seam with a hash for a model, deterministic, fast, and scripted with faults.

It keeps a block-addressed KV memory whose "keys and values" are the token ids themselves, and computes a token from
what it reads back through the row's block table. A block that is shared wrongly, not copied or overwritten shows as
a wrong token; with `check=True` it is named as a failure of its row at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.fake_kv import ENTRY_BYTES, FakeKV
from deploykit.engine.fake_model import FakeModel
from deploykit.engine.fake_row import DEFERRED, SAMPLE, FakeRow
from deploykit.engine.faults import Faults
from deploykit.engine.sampling import SamplingError
from deploykit.engine.types import (
    Admit,
    Capacity,
    KVGroup,
    RowFailure,
    RunnerError,
    Step,
    StepResult,
    Ticket,
    TokenLogprob,
    pack,
    unpack,
)
from deploykit.plan.types import Plan

Masks = dict[int, npt.NDArray[np.uint32]]


def fake_plan(**values: Any) -> Plan:
    """A plan for the fake runner: what no model decides is filled in, the sizes are the caller's."""
    fixed: dict[str, Any] = {
        "name": "fake",
        "engine": "fake",
        "device": "cpu",
        "model_path": "",
        "architecture": "Fake",
        "dtype": "float32",
        "kv_dtype": "float32",
    }
    return Plan(**{**fixed, **values})


class FakeTicket:
    """A launched step; its sampling happens in `collect`."""

    def __init__(self, step: Step, number: int, ready_at: float) -> None:
        self.step = step
        self.number = number  # steps launched so far, this one included
        self.ready_at = ready_at
        self.masks: Masks = {}
        self.sampled = False

    @property
    def seq(self) -> int:
        return self.step.seq

    def sample(self, masks: Masks) -> None:
        self.masks.update(masks)
        self.sampled = True


class FakeRunner:
    """A Runner for tests.

    `overlap_depth` 1 behaves like a device: `launch` only queues, decode tokens come from the token pool, and a
    step's `delay` runs from the end of the one before. `check` compares the KV that a row reads with the tokens it
    should hold, refuses writes into shared blocks, and poisons blocks when they change hands.
    """

    def __init__(
        self,
        *,
        overlap_depth: int = 0,
        check: bool = False,
        delay: float = 0.0,
        faults: Faults | None = None,
    ) -> None:
        self.overlap_depth = overlap_depth
        self.check = check
        self.delay = delay  # seconds a step
        self.faults = Faults.from_environment() if faults is None else faults
        self._rows: dict[int, FakeRow] = {}
        self._queue: deque[FakeTicket] = deque()
        self._launched = 0
        self._busy_until = 0.0
        self._loaded = False

    # ------------------------------------------------------------ the seam

    def load(self, plan: Plan, progress: Callable[[str, float], None]) -> Capacity:
        """Reserves the KV memory. Raises ScriptedFault where a fault says so."""
        progress("weights", 0.0)
        time.sleep(self.faults.delay("engine.load"))
        self.faults.fire("engine.load")
        self._model = FakeModel(plan.vocab_size, plan.eos_token_ids)
        self._kv = FakeKV(plan.num_blocks, plan.block_len, check=self.check)
        for stage in ("weights", "engine", "kv", "warmup"):
            progress(stage, 1.0)
        self._loaded = True
        self.capacity = Capacity(
            max_rows=plan.max_batch_size,
            overlap_depth=self.overlap_depth,
            groups=(
                KVGroup(
                    kind="full",
                    layers=(0,),
                    block_len=plan.block_len,
                    block_bytes=plan.block_len * ENTRY_BYTES,
                    num_blocks=plan.num_blocks,
                ),
            ),
            session_len=plan.session_len,
            vocab_size=plan.vocab_size,
            max_step_tokens=plan.step_capacity,
            bytes_predicted=plan.total_bytes,
            bytes_measured=self._kv.nbytes,
        )
        return self.capacity

    def launch(self, step: Step) -> FakeTicket:
        """Queue a step. Raises RunnerError where overlap depth 0 is not kept or nothing is loaded."""
        if not self._loaded:
            raise RunnerError("the runner is not loaded")
        if self._queue and self.overlap_depth == 0:
            raise RunnerError(f"step {step.seq} was launched before step {self._queue[0].seq} was collected")
        self._launched += 1
        delay = self.delay + (self.faults.delay("engine.step", self._launched) if self.faults.faults else 0.0)
        if delay:
            self._busy_until = max(self._busy_until, time.monotonic()) + delay
        ticket = FakeTicket(step, self._launched, self._busy_until)
        self._queue.append(ticket)
        return ticket

    def collect(self, ticket: Ticket) -> StepResult:
        """Run the step. Steps before it that nobody collected (after a failure) run first, unreported."""
        if ticket not in self._queue:
            raise RunnerError(f"step {ticket.seq} is not in flight")
        while (launched := self._queue.popleft()) is not ticket:
            self._apply(launched.step)
            self._compute(launched)
        if launched.ready_at and (wait := launched.ready_at - time.monotonic()) > 0:
            time.sleep(wait)
        self._apply(launched.step)  # also where the step then fails: the books go on
        if self.faults.faults:
            self.faults.fire("engine.step", launched.number)
        return self._compute(launched)

    def close(self) -> None:
        self._loaded = False
        self._rows.clear()
        self._queue.clear()

    # ------------------------------------------------------------ rows and blocks

    def _apply(self, step: Step) -> None:
        if step.trims:
            raise RunnerError("a group of kind 'full' has no window to trim")
        for release in step.releases:
            self._release(release.row, release.epoch)
        for admit in step.admits:
            self._admit(admit)
        for extend in step.extends:
            row = self._rows.get(extend.row)
            if row is None or row.epoch != extend.epoch or extend.group != 0:
                raise RunnerError(f"blocks come for {extend}, which is not there")
            self._kv.extend(row.table, extend.blocks, row.computed)
        for copy in step.copies:
            self._kv.copy(copy.src, copy.dst)

    def _release(self, index: int, epoch: int) -> None:
        row = self._rows.get(index)
        if row is not None and row.epoch == epoch:
            del self._rows[index]
            self._kv.release(row.table, row.computed)

    def _admit(self, admit: Admit) -> None:
        if not 0 <= admit.row < self.capacity.max_rows:
            raise RunnerError(f"there is no row {admit.row}")
        if admit.row in self._rows:
            raise RunnerError(f"row {admit.row} is not free: its use {self._rows[admit.row].epoch} goes on")
        self._rows[admit.row] = FakeRow(admit, self._model, self._kv)

    # ------------------------------------------------------------ computing

    def _compute(self, ticket: FakeTicket) -> StepResult:
        started = time.perf_counter()
        step = ticket.step
        arrays = (step.rows, step.epochs, step.num_tokens, step.flags)
        work = list(zip(*(unpack(a).tolist() for a in arrays), strict=True))
        if not ticket.sampled and any(flags & DEFERRED for _, _, _, flags in work):
            raise RunnerError(f"step {step.seq} has deferred rows that Ticket.sample did not release")
        failing = bool(self.faults.faults) and self.faults.row_fails(ticket.number)
        tokens: list[int] = []
        offsets, finishes = [0], []
        logprobs: dict[int, tuple[TokenLogprob, ...]] = {}
        prompt_logprobs: dict[int, tuple[TokenLogprob, ...]] = {}
        failures: list[RowFailure] = []
        for index, epoch, num_tokens, flags in work:
            finish = 0
            row = self._rows.get(index)
            # A row that has ended is asked once more where steps overlap: it has nothing to add.
            if row is not None and row.epoch == epoch and not row.done:
                try:
                    if failing:
                        raise SamplingError("fault", "a scripted fault")
                    scores = row.forward(num_tokens, flags)
                    if scores:
                        prompt_logprobs[index] = scores
                    if flags & SAMPLE:
                        drawn, finish = row.sample(flags, ticket.masks.get(index), step.iterations)
                        tokens += [d.token for d in drawn]
                        if row.params.logprobs is not None:
                            logprobs[index] = tuple(d.logprob for d in drawn if d.logprob is not None)
                except SamplingError as error:
                    row.done = True
                    failures.append(RowFailure(index, epoch, error.code, error.reason))
                failing = False
            offsets.append(len(tokens))
            finishes.append(finish)
        return StepResult(
            seq=step.seq,
            rows=step.rows,
            epochs=step.epochs,
            offsets=pack(offsets),
            tokens=pack(tokens),
            finish=pack(finishes),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            failures=tuple(failures),
            forward_s=time.perf_counter() - started,
        )
