"""The engine: requests in, outputs out, one step after the other, over any runner. No sockets in here."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections import deque

from deploykit.engine.blocks import root_key
from deploykit.engine.philox import sibling_seed
from deploykit.engine.protocol import Failed, FinishReason, Output, Submit
from deploykit.engine.request import Request, Sequence
from deploykit.engine.scheduler import Scheduler
from deploykit.engine.types import Capacity, Finish, Runner, Step, StepResult, Ticket, pack, unpack
from deploykit.plan.types import Plan

log = logging.getLogger(__name__)
_FINISH: dict[int, FinishReason] = {Finish.STOP: "stop", Finish.LENGTH: "length"}
MAX_FAILED_STEPS = 3  # failed steps of lone sequences in a row before the runner itself counts as broken


class EngineBroken(Exception):
    """Steps fail whatever they contain: the process should end and be started again."""


@dataclasses.dataclass(slots=True)
class Counters:
    """Totals since the start."""

    steps: int = 0
    prompt_tokens: int = 0  # prompt positions computed for first admissions
    cached_tokens: int = 0
    output_tokens: int = 0
    aborted: int = 0
    failed: int = 0


class EngineCore:
    """Owns the scheduler and drives a loaded runner. Not thread-safe: one thread calls it.

    `step()` launches the next step before it collects the one before where the runner's overlap depth is 1.
    Outputs and failures are addressed by (connection, id) and fetched with `take_events`.
    """

    def __init__(self, runner: Runner, capacity: Capacity, plan: Plan, *, overlap: bool = True) -> None:
        self.runner = runner
        self.capacity = capacity
        self.plan = plan
        self.scheduler = Scheduler(
            capacity,
            prefix_caching=plan.prefix_caching,
            step_tokens=plan.max_step_tokens,
            prefill_tokens=plan.max_prefill_tokens,
            prefill_chunks=plan.max_prefill_chunks,
        )
        self.counters = Counters()
        self.depth = capacity.overlap_depth if overlap else 0
        self._inflight: deque[tuple[Step, Ticket]] = deque()
        self._requests: dict[tuple[int, str], Request] = {}
        self._deadlines = 0  # requests with a deadline
        self._arrivals = 0
        self._failed_steps = 0
        self._outputs: dict[int, list[Output]] = {}
        self._failures: list[tuple[int, Failed]] = []

    # ------------------------------------------------------------ requests

    @property
    def num_requests(self) -> int:
        return len(self._requests)

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or bool(self._inflight)

    def submit(self, message: Submit, connection: int = 0) -> None:
        """Take a request; what is wrong with it comes back as `Failed`."""
        key = (connection, message.id)
        problem = self._problem(message, key)
        if problem is not None:
            self._fail(key, *problem)
            return
        sampling = message.sampling
        prompt = unpack(message.token_ids).tolist()
        limit = min(len(prompt) + sampling.max_tokens, self.capacity.session_len)
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(64)
        self._arrivals += 1
        request = Request(
            key=key,
            sampling=sampling,
            root=root_key(salt=message.salt, kv=self.plan.kv_dtype),
            arrival=self._arrivals,
            priority=message.priority,
            deadline=None if message.deadline_s is None else time.monotonic() + message.deadline_s,
        )
        self._deadlines += request.deadline is not None
        eos = () if sampling.ignore_eos else self.plan.eos_token_ids
        for index in range(message.n):
            sequence = Sequence(
                request=request,
                index=index,
                seed=sibling_seed(seed, index),
                prompt_len=len(prompt),
                limit=limit,
                eos_token_ids=eos,
                tokens=list(prompt),
                known=len(prompt),
            )
            request.sequences.append(sequence)
        self._requests[key] = request
        if limit == len(prompt) and sampling.prompt_logprobs is None:
            for sequence in request.sequences:  # nothing to draw and nothing to report
                sequence.finished = True
                done = Output(id=message.id, index=sequence.index, finish="length", prompt_tokens=len(prompt))
                self._emit(sequence, done)
            self._retire(request)
            return
        for sequence in request.sequences:
            self.scheduler.add(sequence)

    def _problem(self, message: Submit, key: tuple[int, str]) -> tuple[str, str] | None:
        """What is wrong with a request: (code, reason)."""
        length = len(message.token_ids) // 4
        if key in self._requests:
            return "invalid", f"request id {message.id!r} is in use"
        if len(message.token_ids) % 4 or length == 0:
            return "invalid", "the prompt has no tokens"
        ids = unpack(message.token_ids)
        if int(ids.min()) < 0 or int(ids.max()) >= self.capacity.vocab_size:
            return "invalid", f"a prompt token id is outside the vocabulary of {self.capacity.vocab_size}"
        if message.n < 1:
            return "invalid", "n must be at least 1"
        room = min(self.capacity.session_len, self._pool_tokens())
        if length > room or (length == room and message.sampling.max_tokens > 0):
            return "too_long", f"the prompt has {length} tokens and a session holds {room} with its output"
        if min(length + message.sampling.max_tokens, self.capacity.session_len) > self._pool_tokens():
            return (
                "too_long",
                f"prompt and output need more than the {self._pool_tokens()} tokens of KV memory",
            )
        if message.adapter is not None or message.grammar is not None or message.images:
            return "unsupported", "adapters, grammars and images are not served by this engine"
        if self.num_requests >= self.plan.max_batch_size + self.plan.max_queue:
            return "overloaded", "the queue is full"
        return None

    def _pool_tokens(self) -> int:
        group = self.capacity.groups[0]
        return group.num_blocks * group.block_len

    def abort(self, request_id: str, connection: int = 0) -> None:
        """Forget a request; an unknown id does nothing (it may just have finished)."""
        request = self._requests.get((connection, request_id))
        if request is not None:
            self.counters.aborted += 1
            self._end(request)

    def abort_connection(self, connection: int) -> None:
        """The client is gone: everything of it goes, and so does what was not fetched."""
        for key in [k for k in self._requests if k[0] == connection]:
            self.abort(key[1], connection)
        self._outputs.pop(connection, None)
        self._failures = [(c, f) for c, f in self._failures if c != connection]

    def _end(self, request: Request) -> None:
        self.scheduler.abort(request)
        self._retire(request)

    def _retire(self, request: Request) -> None:
        if self._requests.pop(request.key, None) is not None:
            self._deadlines -= request.deadline is not None

    def _fail(self, key: tuple[int, str], code: str, reason: str) -> None:
        self.counters.failed += 1
        self._failures.append((key[0], Failed(id=key[1], code=code, reason=reason)))

    def _fail_request(self, request: Request, code: str, reason: str) -> None:
        if request.key in self._requests:
            self._fail(request.key, code, reason)
            self._end(request)

    def expire(self, now: float) -> None:
        """Fail the requests whose deadline has passed."""
        if not self._deadlines:
            return
        for request in list(self._requests.values()):
            if request.deadline is not None and now >= request.deadline:
                self._fail_request(request, "timeout", "the request's time is over")

    def take_events(self) -> tuple[dict[int, list[Output]], list[tuple[int, Failed]]]:
        """Outputs by connection, and failures, since the last call."""
        outputs, failures = self._outputs, self._failures
        self._outputs, self._failures = {}, []
        return outputs, failures

    # ------------------------------------------------------------ steps

    def step(self) -> bool:
        """Launch and collect once; whether anything was done.

        Raises EngineBroken when steps of lone sequences keep failing.
        """
        step = self.scheduler.plan()
        try:
            if step is not None:
                self._inflight.append((step, self.runner.launch(step)))
            if self._inflight and (len(self._inflight) > self.depth or step is None):
                result = self.runner.collect(self._inflight[0][1])
            else:
                return step is not None
        except Exception as error:
            # Only the loop sees a whole step fail, whatever its kind: nothing may get past it.
            self._step_failed(step, error)
            return True
        launched, _ = self._inflight.popleft()
        self._failed_steps = 0
        self._settle(launched, result)
        return True

    def _step_failed(self, planned: Step | None, error: Exception) -> None:
        """Find the culprit: with one sequence at work it is that one, else each computes again alone."""
        log.error("a step failed: %s: %s", type(error).__name__, error, exc_info=error)
        lost = [step for step, _ in self._inflight]
        if planned is not None and planned not in lost:
            lost.append(planned)
        self._inflight.clear()
        self.scheduler.repeat_releases(lost)
        running = list(self.scheduler.running)
        if len(running) == 1:
            self._failed_steps += 1
            self._fail_request(running[0].request, "internal", f"the step failed: {type(error).__name__}")
            if self._failed_steps >= MAX_FAILED_STEPS:
                raise EngineBroken(f"{self._failed_steps} steps in a row failed: {error}") from error
        elif not running:
            raise EngineBroken(f"a step without sequences failed: {error}") from error
        else:
            self.scheduler.quarantine()

    def _settle(self, step: Step, result: StepResult) -> None:
        self.counters.steps += 1
        rows, epochs = unpack(result.rows).tolist(), unpack(result.epochs).tolist()
        offsets, tokens = unpack(result.offsets).tolist(), unpack(result.tokens).tolist()
        finish, counts = unpack(result.finish).tolist(), unpack(step.num_tokens).tolist()
        failures = {(f.row, f.epoch): f for f in result.failures}
        for i, (row, epoch) in enumerate(zip(rows, epochs, strict=True)):
            sequence = self.scheduler.rows[row]
            if sequence is None or sequence.epoch != epoch:
                continue  # it ended or was preempted while the step was in flight
            if failures and (failure := failures.get((row, epoch))) is not None:
                self._fail_request(sequence.request, failure.code, failure.reason)
                continue
            new = tokens[offsets[i] : offsets[i + 1]]
            if len(sequence.tokens) == sequence.prompt_len and not sequence.started:
                self.counters.prompt_tokens += counts[i]
            self.scheduler.settle(sequence, counts[i], new)
            self.counters.output_tokens += len(new)
            self._answer(sequence, new, finish[i], result, row)

    def _answer(self, sequence: Sequence, new: list[int], finish: int, result: StepResult, row: int) -> None:
        reason = _FINISH.get(finish)
        if sequence.score_only and sequence.settled >= sequence.prompt_len:
            reason = "length"
        prompt_logprobs = result.prompt_logprobs.get(row, ())
        if prompt_logprobs:
            # After a preemption the first positions come a second time.
            end = min(sequence.settled, sequence.prompt_len - 1)
            skip = sequence.prompt_logprobs_done - (end - len(prompt_logprobs))
            prompt_logprobs = prompt_logprobs[max(skip, 0) :]
            sequence.prompt_logprobs_done = max(sequence.prompt_logprobs_done, end)
        if not new and reason is None and not prompt_logprobs:
            return
        self._emit(
            sequence,
            Output(
                id=sequence.request.key[1],
                index=sequence.index,
                tokens=pack(new),
                finish=reason,
                stop_token=finish == Finish.STOP,
                logprobs=result.logprobs.get(row, ()),
                prompt_logprobs=prompt_logprobs,
                prompt_tokens=0 if sequence.started else sequence.prompt_len,
                cached_tokens=0 if sequence.started else sequence.cached_tokens,
            ),
        )
        if not sequence.started:
            sequence.started = True
            self.counters.cached_tokens += sequence.cached_tokens
        if reason is not None:
            self.scheduler.finish(sequence)
            if not sequence.request.unfinished:
                self._retire(sequence.request)

    def _emit(self, sequence: Sequence, output: Output) -> None:
        self._outputs.setdefault(sequence.request.key[0], []).append(output)
