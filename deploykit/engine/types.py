"""The seam between the engine's loop and a runner: what is asked of it and what it answers.

Everything here is immutable and serializable (msgspec), imports neither torch nor transformers, and means the same
to every runner. Arrays cross as little-endian int32 bytes (`pack`/`unpack`); a step is one self-contained message.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from deploykit.plan.types import Plan

Int32Array = npt.NDArray[np.int32]


def pack(values: Sequence[int] | Int32Array) -> bytes:
    """Integers as little-endian int32 bytes."""
    if len(values) == 1:  # one token a row is what most steps bring
        return int(values[0]).to_bytes(4, "little", signed=True)
    return np.asarray(values, dtype="<i4").tobytes()


def unpack(data: bytes) -> Int32Array:
    """The array behind `pack`; a read-only view, nothing is copied."""
    return np.frombuffer(data, dtype="<i4")


# ---------------------------------------------------------------- what a request asks for


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose tokens; `docs/sampling.md` fixes the order of operations. Validated at the edge (server)."""

    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0  # (0, 1]; 1 = off
    top_k: int = 0  # 0 = off
    min_p: float = 0.0  # [0, 1]; 0 = off
    repetition_penalty: float = 1.0  # (0, 2]; over prompt and output
    frequency_penalty: float = 0.0  # [-2, 2]; over output
    presence_penalty: float = 0.0  # [-2, 2]; over output
    seed: int | None = None  # unsigned 64 bit; None = drawn by the engine when the request is admitted
    logit_bias: dict[int, float] = {}
    max_tokens: int = 16
    min_tokens: int = 0  # EOS and stop ids can't be drawn before this many output tokens
    ignore_eos: bool = False  # EOS ids don't end the row (stop ids still do)
    stop_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that may not be completed
    logprobs: int | None = None  # None = none; k = the chosen token's and the k best alternatives'
    prompt_logprobs: int | None = None  # the same for every prompt token but the first


class Want(enum.IntFlag):
    """What a row wants from a step (`Step.flags`)."""

    NONE = 0  # a prefill chunk that doesn't reach the last known token
    SAMPLE = 1  # draw the next token
    DEFERRED = 2  # with SAMPLE: wait for `Ticket.sample(masks)` (rows under a grammar)
    PROMPT_LOGPROBS = 4  # log probabilities of the prompt tokens in this chunk
    SCORE = 8  # log probabilities only, nothing drawn
    POOL = 16  # a pooled hidden state (embeddings)


class Span(msgspec.Struct, frozen=True):
    """Positions `[start, start + length)` that take embeddings by handle and that no chunk may split."""

    start: int
    length: int
    handle: str
    bidirectional: bool = False


class Admit(msgspec.Struct, frozen=True, kw_only=True):
    """A request takes a row. `tokens` are all it knows: the prompt, then what it produced before a preemption."""

    row: int
    epoch: int  # distinguishes the uses of one row; results carry it back
    tokens: bytes  # int32[known]
    prompt_len: int  # tokens[:prompt_len] is the prompt
    computed: int  # leading tokens whose KV already stands in the row's blocks (prefix hits); < known
    limit: int  # the row ends when known reaches this (prompt_len + max_tokens, at most session_len)
    sampling: SamplingParams
    seed: int  # resolved: sampling.seed or the engine's draw
    eos_token_ids: tuple[int, ...] = ()  # empty where ignore_eos
    adapter: str | None = None
    grammar: int | None = None
    positions: bytes | None = None  # int32[axes, known] where they are not 0, 1, 2, … (M-RoPE)
    spans: tuple[Span, ...] = ()


class Extend(msgspec.Struct, frozen=True, array_like=True):
    """Append `blocks` to the block table of (row, group); prefix hits arrive the same way."""

    row: int
    epoch: int
    group: int
    blocks: tuple[int, ...]


class Trim(msgspec.Struct, frozen=True, array_like=True):
    """The first `num_blocks` entries of (row, group)'s table have left the window and are not the row's any more."""

    row: int
    epoch: int
    group: int
    num_blocks: int


class Copy(msgspec.Struct, frozen=True, array_like=True):
    """Copy a whole block, over all layers of its group, before this step computes."""

    src: int
    dst: int


class Release(msgspec.Struct, frozen=True, array_like=True):
    """The row's use `epoch` is over; releasing one twice is allowed and does nothing."""

    row: int
    epoch: int


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One self-contained message a step, applied in this order: releases, admits, extends, trims, copies, compute.

    `rows[i]` gets `num_tokens[i]` tokens from where the runner's own count of computed tokens stands, and wants
    `flags[i]`. A decode token is in the runner's token pool already. Rows are distinct within a step.
    """

    seq: int
    rows: bytes  # int32[n]
    epochs: bytes  # int32[n]
    num_tokens: bytes  # int32[n], upper bounds where speculation shortens them
    flags: bytes  # int32[n] of Want
    releases: tuple[Release, ...] = ()
    admits: tuple[Admit, ...] = ()
    extends: tuple[Extend, ...] = ()
    trims: tuple[Trim, ...] = ()
    copies: tuple[Copy, ...] = ()
    iterations: int = 1  # decode iterations to run in this one step


# ---------------------------------------------------------------- what a runner answers


class Finish(enum.IntEnum):
    """Why a row ended, as the runner saw it."""

    NONE = 0
    STOP = 1  # an EOS id or a stop id was drawn (it is the last token returned)
    LENGTH = 2  # known reached limit


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities (natural, of the model's own distribution before any processing) at one position."""

    token: int
    logprob: float
    rank: int  # 1 = the most likely
    top: tuple[tuple[int, float], ...] = ()  # best alternatives (id, logprob), descending


class RowFailure(msgspec.Struct, frozen=True, array_like=True):
    """One row failed; the others of the step stand."""

    row: int
    epoch: int
    code: str
    reason: str


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """Ragged results in the order of the step's rows: row i produced `tokens[offsets[i]:offsets[i + 1]]`."""

    seq: int
    rows: bytes  # int32[n]
    epochs: bytes  # int32[n]
    offsets: bytes  # int32[n + 1]
    tokens: bytes  # int32[offsets[n]]
    finish: bytes  # int32[n] of Finish
    logprobs: dict[int, tuple[TokenLogprob, ...]] = {}  # row -> one a produced token
    # row -> one for the prompt token that follows each position of the chunk
    prompt_logprobs: dict[int, tuple[TokenLogprob, ...]] = {}
    pooled: dict[int, bytes] = {}  # row -> float32[hidden]
    failures: tuple[RowFailure, ...] = ()
    forward_s: float = 0.0
    sample_s: float = 0.0


class KVGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that share a block table. A block is one contiguous byte range over all layers of its group."""

    kind: str  # "full" | "window" | "latent" | "state"
    layers: tuple[int, ...]
    block_len: int  # tokens a block
    block_bytes: int
    num_blocks: int
    window: int | None = None


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded runner can hold."""

    max_rows: int
    overlap_depth: int  # 1: step N+1 may be launched before step N is collected; 0: it may not
    groups: tuple[KVGroup, ...]
    session_len: int
    vocab_size: int  # width of the logits, not of the tokenizer
    max_step_tokens: int  # sum of num_tokens a step may carry
    bytes_predicted: int = 0
    bytes_measured: int = 0
    weight_bytes: int = 0  # of weights and tables as they lie in memory
    head_error: float | None = None  # of an int8 output head: its weights' error over their size


class Ticket(Protocol):
    """A launched step."""

    @property
    def seq(self) -> int: ...

    def sample(self, masks: dict[int, npt.NDArray[np.uint32]]) -> None:
        """Release the sampling of the deferred rows.

        `masks[row]` is uint32[ceil(vocab_size / 32)]: bit i % 32 of word i // 32 set = token i is allowed.
        """
        ...


class RunnerError(Exception):
    """The whole step failed and the runner can't say which row did it."""


class Runner(Protocol):
    """Owns weights, KV memory and kernels, and executes steps. Called from one thread."""

    def load(self, plan: Plan, progress: Callable[[str, float], None]) -> Capacity:
        """Load weights and reserve KV memory.

        `progress(stage, fraction)` reports the stages weights, engine, kv and warmup.
        """
        ...

    def launch(self, step: Step) -> Ticket:
        """Begin a step. When a step fails, the loop forgets all tickets that are out; they are never collected."""
        ...

    def collect(self, ticket: Ticket) -> StepResult:
        """Wait for the step without holding the interpreter lock. Tickets are collected in launch order."""
        ...

    def close(self) -> None: ...
