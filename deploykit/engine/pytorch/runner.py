"""The pytorch runner: applies steps to the row table, runs the forward, samples, and answers ragged results.

On a CPU the threads that would overlap are the ones that compute, and on CUDA this first version reads the sampled
tokens back every iteration: `overlap_depth` is 0, and a step's work is done in `collect`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from deploykit.checkpoint import read_facts
from deploykit.checkpoint.facts import Facts
from deploykit.engine.pytorch import attention, loading
from deploykit.engine.pytorch.batch import Batch
from deploykit.engine.pytorch.held import weight_bytes
from deploykit.engine.pytorch.kv import KVPool
from deploykit.engine.pytorch.logprobs import prompt_logprobs
from deploykit.engine.pytorch.model import LanguageModel, Weights
from deploykit.engine.pytorch.rows import RowTable
from deploykit.engine.pytorch.sampler import Draw, Drawn, sample
from deploykit.engine.types import (
    Capacity,
    Finish,
    KVGroup,
    RowFailure,
    RunnerError,
    Step,
    StepResult,
    Ticket,
    TokenLogprob,
    Want,
    pack,
    unpack,
)
from deploykit.plan.types import Plan

WeightSource = Callable[[Facts, str], Weights]
MaskArray = npt.NDArray[np.uint32]


class StepTicket:
    """A launched step; `masks` is filled by `sample`."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.masks: dict[int, MaskArray] | None = None

    @property
    def seq(self) -> int:
        return self.step.seq

    def sample(self, masks: dict[int, MaskArray]) -> None:
        """The masks of the deferred rows: uint32[ceil(vocab / 32)] each, bit set = allowed."""
        self.masks = masks


class _Outcome:
    """What a step has produced so far, by row of the step."""

    def __init__(self, count: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.finish = [Finish.NONE] * count
        self.logprobs: list[list[TokenLogprob]] = [[] for _ in range(count)]
        self.prompt_logprobs: dict[int, tuple[TokenLogprob, ...]] = {}
        self.pooled: dict[int, bytes] = {}
        self.failures: dict[int, tuple[str, str]] = {}
        self.forward_s = 0.0
        self.sample_s = 0.0


class PytorchRunner:
    """`deploykit.engine.types.Runner` over transformers' model code.

    `weights(facts, dtype)` yields (Hugging Face name, CPU tensor); left out, it is the checkpoint room's reader.
    """

    def __init__(self, weights: WeightSource | None = None) -> None:
        self._weights = weights or _checkpoint_weights
        self._launched: StepTicket | None = None
        self._loaded = False

    # ------------------------------------------------------------ load and close

    def load(self, plan: Plan, progress: Callable[[str, float], None]) -> Capacity:
        """Load weights, examine and pack the model, reserve KV memory. Raises DeploykitError for what can't be run."""
        facts = read_facts(plan.model_path)
        loaded = loading.load(plan, facts, lambda dtype: self._weights(facts, dtype), progress)
        self._model: LanguageModel = loaded.model
        self._pool: KVPool = loaded.pool
        self._device = loaded.pool.data.device
        self._vocab = loaded.vocab_size
        self._table = RowTable(plan.max_batch_size, plan.session_len, plan.block_len)
        self._loaded = True
        shape = loaded.pool.shape
        return Capacity(
            max_rows=plan.max_batch_size,
            overlap_depth=0,
            groups=(
                KVGroup(
                    kind="full",
                    layers=tuple(range(shape.layers)),
                    block_len=shape.block_len,
                    block_bytes=loaded.pool.block_bytes,
                    num_blocks=loaded.pool.num_blocks,
                ),
            ),
            session_len=plan.session_len,
            vocab_size=loaded.vocab_size,
            max_step_tokens=plan.step_capacity,
            bytes_predicted=plan.total_bytes,
            bytes_measured=loading.measured_bytes(self._device),
            weight_bytes=weight_bytes(loaded.model.model),
        )

    def close(self) -> None:
        """Give the memory back; the runner can't be used again."""
        if self._loaded:
            self._loaded = False
            del self._model, self._pool, self._table

    # ------------------------------------------------------------ steps

    def launch(self, step: Step) -> Ticket:
        if self._launched is not None:
            raise RunnerError(f"step {self._launched.seq} was not collected before step {step.seq}")
        self._launched = StepTicket(step)
        return self._launched

    def collect(self, ticket: Ticket) -> StepResult:
        if ticket is not self._launched or self._launched is None:
            raise RunnerError(f"step {ticket.seq} is not the one that was launched")
        launched, self._launched = self._launched, None
        step = launched.step
        self._apply(step)
        rows, epochs = unpack(step.rows).tolist(), unpack(step.epochs).tolist()
        counts, flags = unpack(step.num_tokens).tolist(), unpack(step.flags).tolist()
        if len(set(rows)) != len(rows):
            raise RunnerError("a step names a row twice")
        masks = launched.masks
        if masks is None and any(flag & Want.DEFERRED for flag in flags):
            raise RunnerError("deferred rows were not released: Ticket.sample was not called")
        outcome = _Outcome(len(rows))
        live = list(self._admissible(rows, epochs, counts, flags, outcome))
        with torch.inference_mode():
            for iteration in range(step.iterations):
                if not live:
                    break
                chunk = counts if iteration == 0 else [1] * len(rows)
                self._iterate(rows, chunk, flags, live, masks or {}, outcome)
                live = [i for i in live if self._goes_on(rows[i], flags[i], i, outcome)]
        return self._result(step, rows, epochs, outcome)

    def _apply(self, step: Step) -> None:
        table = self._table
        for release in step.releases:
            table.release(release)
        for admit in step.admits:
            table.admit(admit)
        for extend in step.extends:
            table.extend(extend)
        if step.trims:
            raise RunnerError("the pytorch engine has no windowed group to trim")
        for copy in step.copies:
            self._pool.copy(copy.src, copy.dst)

    def _admissible(
        self, rows: list[int], epochs: list[int], counts: list[int], flags: list[int], outcome: _Outcome
    ) -> Iterator[int]:
        """Indices of the step's rows that can be computed; the others get their failure or nothing."""
        table = self._table
        for i, row in enumerate(rows):
            request = table.request(row, epochs[i])
            if request is None:
                outcome.failures[i] = ("internal", f"row {row} is not in epoch {epochs[i]}")
                continue
            if request.failure is not None:
                outcome.failures[i] = request.failure
                continue
            if request.finished:
                continue  # found finished one step late: nothing to do
            computed, known = int(table.computed[row]), int(table.known[row])
            counts[i] = min(counts[i], known - computed)
            end = computed + counts[i]
            if counts[i] < 1:
                outcome.failures[i] = ("internal", f"row {row} has no token to compute")
            elif end > int(table.num_blocks[row]) * table.block_len:
                outcome.failures[i] = ("internal", f"row {row} has no block for token {end - 1}")
            elif flags[i] & (Want.SAMPLE | Want.POOL) and end != known:
                outcome.failures[i] = ("internal", f"row {row} wants a result before its last known token")
            else:
                yield i

    def _iterate(
        self,
        rows: list[int],
        counts: list[int],
        flags: list[int],
        live: list[int],
        masks: dict[int, MaskArray],
        outcome: _Outcome,
    ) -> None:
        """One forward over the live rows and one token for each that wants it."""
        table = self._table
        started = time.perf_counter()
        batch = Batch(table, self._pool, [rows[i] for i in live], [counts[i] for i in live])
        with attention.running(attention.Context(self._pool, batch)):
            hidden = self._model.hidden(batch.input_ids, batch.position_ids)
        for i in live:
            table.computed[rows[i]] += counts[i]
        wanting = [j for j, i in enumerate(live) if flags[i] & Want.SAMPLE]
        logits = None
        if wanting:
            last = torch.from_numpy(batch.last[wanting]).to(self._device)
            logits = self._model.logits(hidden.index_select(0, last))
        sampling_from = time.perf_counter()
        outcome.forward_s += sampling_from - started
        for j, i in enumerate(live):
            if flags[i] & (Want.PROMPT_LOGPROBS | Want.SCORE):
                part = hidden[int(batch.first[j]) : int(batch.last[j]) + 1]
                found = prompt_logprobs(self._model, table, rows[i], part, bool(flags[i] & Want.SCORE))
                outcome.prompt_logprobs[rows[i]] = found
            if flags[i] & Want.POOL:
                outcome.pooled[rows[i]] = hidden[int(batch.last[j])].float().cpu().numpy().tobytes()
        if logits is not None:
            draws = [
                self._draw(rows[live[j]], masks if flags[live[j]] & Want.DEFERRED else {}) for j in wanting
            ]
            for j, drawn in zip(wanting, sample(logits, draws), strict=True):
                self._take(rows[live[j]], live[j], drawn, outcome)
        outcome.sample_s += time.perf_counter() - sampling_from

    def _draw(self, row: int, masks: dict[int, MaskArray]) -> Draw:
        request = self._table.running(row)
        return Draw(
            params=request.sampling,
            seed=request.seed,
            prompt=self._table.prompt(row),
            output=self._table.output(row),
            eos=request.eos,
            plain=request.plain,
            mask=masks.get(row),
        )

    def _take(self, row: int, i: int, drawn: Drawn, outcome: _Outcome) -> None:
        """A drawn token becomes the row's; or its fault the row's failure."""
        table = self._table
        request = table.running(row)
        if drawn.error is not None:
            request.failure = drawn.error
            outcome.failures[i] = drawn.error
            if drawn.error[0] == "nonfinite_logits":
                self._pool.scrub(table.blocks[row, : int(table.num_blocks[row])].tolist())
            return
        table.append(row, drawn.token)
        outcome.tokens[i].append(drawn.token)
        if drawn.logprob is not None:
            outcome.logprobs[i].append(drawn.logprob)
        if drawn.token in request.stop:
            outcome.finish[i] = Finish.STOP
        elif int(table.known[row]) >= request.limit:
            outcome.finish[i] = Finish.LENGTH
        request.finished = outcome.finish[i] != Finish.NONE

    def _goes_on(self, row: int, flag: int, i: int, outcome: _Outcome) -> bool:
        """Whether the row decodes again in the step's next iteration."""
        if not flag & Want.SAMPLE or flag & Want.DEFERRED or i in outcome.failures or outcome.finish[i]:
            return False
        return int(self._table.computed[row]) < int(self._table.num_blocks[row]) * self._table.block_len

    def _result(self, step: Step, rows: list[int], epochs: list[int], outcome: _Outcome) -> StepResult:
        offsets = np.concatenate([[0], np.cumsum([len(t) for t in outcome.tokens])]).astype(np.int32)
        return StepResult(
            seq=step.seq,
            rows=step.rows,
            epochs=step.epochs,
            offsets=pack(offsets),
            tokens=pack([token for tokens in outcome.tokens for token in tokens]),
            finish=pack([int(f) for f in outcome.finish]),
            logprobs={rows[i]: tuple(found) for i, found in enumerate(outcome.logprobs) if found},
            prompt_logprobs=outcome.prompt_logprobs,
            pooled=outcome.pooled,
            failures=tuple(
                RowFailure(rows[i], epochs[i], code, reason) for i, (code, reason) in outcome.failures.items()
            ),
            forward_s=outcome.forward_s,
            sample_s=outcome.sample_s,
        )


def _checkpoint_weights(facts: Facts, dtype: str) -> Weights:
    from deploykit.checkpoint.weights import iter_weights
    from deploykit.fsutil import cache_dir

    return iter_weights(facts, dtype, cache_dir())
