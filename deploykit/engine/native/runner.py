"""The native runner: steps handed to the library as they are, results taken back. No torch in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.build import CPU, cuda_target
from deploykit.checkpoint import read_facts
from deploykit.engine.heap import anonymous_bytes
from deploykit.engine.native.library import open_library
from deploykit.engine.native.loading import load_engine
from deploykit.engine.types import (
    Capacity,
    KVGroup,
    RowFailure,
    RunnerError,
    Step,
    StepResult,
    Ticket,
    TokenLogprob,
)
from deploykit.plan.types import Plan


class NativeTicket:
    """A launched step."""

    __slots__ = ("_runner", "step")

    def __init__(self, runner: NativeRunner, step: Step) -> None:
        self._runner = runner
        self.step = step

    @property
    def seq(self) -> int:
        return self.step.seq

    def sample(self, masks: dict[int, npt.NDArray[np.uint32]]) -> None:
        """The masks of the deferred rows: uint32[ceil(vocab / 32)] each, bit set = allowed."""
        self._runner.sample(self.step.seq, masks)


class NativeRunner:
    """`deploykit.engine.types.Runner` over libdeploykit_engine.

    `isa` names an instruction set to compute with instead of the CPU's best: tests and benchmarks compare them.
    """

    def __init__(self, isa: str = "") -> None:
        self._isa = isa
        self._engine: Any = None
        self._error: type[BaseException] = RuntimeError

    # ------------------------------------------------------------ load and close

    def load(self, plan: Plan, progress: Callable[[str, float], None]) -> Capacity:
        """Load the library and the weights, reserve KV memory. Raises DeploykitError for what can't be run."""
        progress("weights", 0.0)
        module = open_library(cuda_target(plan.compute_capability) if plan.compute_capability else CPU)
        self._error = module.NativeError
        facts = read_facts(plan.model_path).with_rope_factor(plan.rope_scaling_factor)
        facts = facts.with_logn(plan.use_logn_attn)
        self._engine, found = load_engine(module, plan, facts, progress, isa=self._isa)
        return Capacity(
            max_rows=found["max_rows"],
            overlap_depth=found["overlap_depth"],
            groups=(
                KVGroup(
                    kind="full",
                    layers=tuple(range(facts.num_layers)),
                    block_len=found["block_len"],
                    block_bytes=found["block_bytes"],
                    num_blocks=found["num_blocks"],
                ),
            ),
            session_len=found["session_len"],
            vocab_size=found["vocab"],
            max_step_tokens=found["max_step_tokens"],
            bytes_predicted=plan.total_bytes,
            bytes_measured=self._measured(plan, found),
            weight_bytes=found["weight_bytes"],
            head_error=self._head_error(plan),
        )

    def _measured(self, plan: Plan, found: dict[str, Any]) -> int:
        """Bytes taken: of the process on a CPU, of the whole card, whoever holds them, on a GPU."""
        if plan.device == "cuda":
            return int(self.info()["device_bytes_used"])
        return anonymous_bytes() + _untouched(found)

    def _head_error(self, plan: Plan) -> float | None:
        return float(self.info()["int8_head_error"]) if plan.lm_head_dtype == "int8" else None

    def close(self) -> None:
        """Give the memory back; the runner can't be used again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def info(self) -> dict[str, str]:
        """Facts for people: instruction set, threads, the kernels that were chosen."""
        return dict(self._engine.info())

    # ------------------------------------------------------------ steps

    def launch(self, step: Step) -> Ticket:
        try:
            self._engine.launch(
                step.seq,
                step.rows,
                step.epochs,
                step.num_tokens,
                step.flags,
                step.releases,
                step.admits,
                step.extends,
                step.trims,
                step.copies,
                step.iterations,
            )
        except self._error as error:
            raise self._whole_step(error) from None
        return NativeTicket(self, step)

    def sample(self, seq: int, masks: dict[int, npt.NDArray[np.uint32]]) -> None:
        try:
            self._engine.sample(seq, masks)
        except self._error as error:
            raise self._whole_step(error) from None

    def collect(self, ticket: Ticket) -> StepResult:
        if not isinstance(ticket, NativeTicket):
            raise RunnerError(f"step {ticket.seq} was not launched by this runner")
        try:
            offsets, tokens, finish, logprobs, prompt_logprobs, pooled, failures, forward_s, sample_s = (
                self._engine.collect(ticket.seq)
            )
        except self._error as error:
            raise self._whole_step(error) from None
        return StepResult(
            seq=ticket.seq,
            rows=ticket.step.rows,
            epochs=ticket.step.epochs,
            offsets=offsets,
            tokens=tokens,
            finish=finish,
            logprobs=_by_row(logprobs) if logprobs else {},
            prompt_logprobs=_by_row(prompt_logprobs) if prompt_logprobs else {},
            pooled=pooled,
            failures=tuple(RowFailure(*failure) for failure in failures),
            forward_s=forward_s,
            sample_s=sample_s,
        )

    def _whole_step(self, error: BaseException) -> RunnerError:
        """The step failed: whatever is out is forgotten, as the loop forgets its tickets."""
        self._engine.forget()
        return RunnerError(str(error))

    # ------------------------------------------------------------ embeddings as input

    def put_embeddings(self, handle: str, values: npt.NDArray[np.float32]) -> None:
        """Embeddings float32 [count, hidden] for spans that name `handle`; copied."""
        try:
            self._engine.put_embeddings(handle, np.ascontiguousarray(values, dtype=np.float32))
        except self._error as error:
            raise ValueError(str(error)) from None

    def drop_embeddings(self, handle: str) -> None:
        self._engine.drop_embeddings(handle)


def _by_row(found: dict[int, tuple[Any, ...]]) -> dict[int, tuple[TokenLogprob, ...]]:
    return {row: tuple(TokenLogprob(*one) for one in several) for row, several in found.items()}


def _untouched(capacity: dict[str, Any]) -> int:
    """KV memory and scratch, which are reserved and become resident only as they are used."""
    return int(capacity["kv_bytes"] + capacity["scratch_bytes"])
