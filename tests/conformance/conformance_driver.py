"""Drives a runner with raw steps: no scheduler, so that every test says exactly what a step holds.

Steps and results cross as msgpack bytes, as they would to a second process.
"""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np

from deploykit.engine.types import (
    Admit,
    Capacity,
    Copy,
    Extend,
    Finish,
    Release,
    RowFailure,
    Runner,
    SamplingParams,
    Step,
    StepResult,
    Ticket,
    TokenLogprob,
    Want,
    pack,
    unpack,
)

GREEDY = SamplingParams(temperature=0)
_decode_step = msgspec.msgpack.Decoder(Step).decode
_decode_result = msgspec.msgpack.Decoder(StepResult).decode


@dataclasses.dataclass(eq=False)
class Seq:
    """One sequence: what it asks for, where it stands, and what came back."""

    prompt: list[int]
    params: SamplingParams = GREEDY
    max_tokens: int = 8
    seed: int = 0
    eos: tuple[int, ...] = ()
    deferred: bool = False
    row: int = -1
    epoch: int = 0
    blocks: list[int] = dataclasses.field(default_factory=list)
    computed: int = 0
    known: int = 0  # with tokens in flight
    outputs: list[int] = dataclasses.field(default_factory=list)
    finish: Finish = Finish.NONE
    logprobs: list[TokenLogprob] = dataclasses.field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = dataclasses.field(default_factory=list)
    failure: RowFailure | None = None

    @property
    def limit(self) -> int:
        return len(self.prompt) + self.max_tokens

    @property
    def ended(self) -> bool:
        return self.finish != Finish.NONE or self.failure is not None

    @property
    def pending(self) -> int:
        return self.known - self.computed


@dataclasses.dataclass
class Loaded:
    """A loaded runner, kept over many tests; the use of each row goes on counting."""

    name: str
    runner: Runner
    capacity: Capacity
    epochs: dict[int, int] = dataclasses.field(default_factory=dict)
    seq: int = 0
    releases: list[Release] = dataclasses.field(default_factory=list)  # left to do by the test before


class Driver:
    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.runner, self.capacity = loaded.runner, loaded.capacity
        self.group = self.capacity.groups[0]
        self.block_len = self.group.block_len
        self.vocab_size = self.capacity.vocab_size
        self.depth = self.capacity.overlap_depth
        self.free = list(range(self.group.num_blocks))
        random.Random(5).shuffle(self.free)  # so that tables are out of order
        self.releases, loaded.releases = loaded.releases, []
        self.admits: list[Admit] = []
        self.extends: list[Extend] = []
        self.copies: list[Copy] = []
        self.admitted: list[tuple[int, int]] = []
        self.inflight: deque[tuple[Ticket, Step, list[Seq]]] = deque()

    def prompt(self, length: int, salt: int = 0) -> list[int]:
        rng = random.Random(1000 * salt + length)
        return [rng.randrange(self.vocab_size) for _ in range(length)]

    # ------------------------------------------------------------ what the next step says

    def admit(self, seq: Seq, row: int = 0, *, computed: int = 0, blocks: Sequence[int] = ()) -> Seq:
        """Give `seq` a row, with what it has produced so far.

        `blocks` hold its `computed` leading tokens; more are allocated as it grows.
        """
        self.loaded.epochs[row] = self.loaded.epochs.get(row, 0) + 1
        tokens = seq.prompt + seq.outputs
        seq.row, seq.epoch, seq.computed, seq.known = row, self.loaded.epochs[row], computed, len(tokens)
        seq.blocks = list(blocks)
        self.admitted.append((row, seq.epoch))
        self.admits.append(
            Admit(
                row=row,
                epoch=seq.epoch,
                tokens=pack(tokens),
                prompt_len=len(seq.prompt),
                computed=computed,
                limit=seq.limit,
                sampling=seq.params,
                seed=seq.seed,
                eos_token_ids=seq.eos,
            )
        )
        if blocks:
            self.extends.append(Extend(row, seq.epoch, 0, tuple(blocks)))
        return seq

    def take(self, count: int) -> list[int]:
        assert count <= len(self.free), "the test needs more blocks than there are"
        return [self.free.pop() for _ in range(count)]

    def release(self, seq: Seq, *, keep: Sequence[int] = ()) -> None:
        """The row is over; its blocks are free again, but for those in `keep`."""
        self.releases.append(Release(seq.row, seq.epoch))
        self.free[:0] = [b for b in seq.blocks if b not in keep]
        seq.blocks = []

    def copy(self, src: int, dst: int) -> None:
        self.copies.append(Copy(src, dst))

    # ------------------------------------------------------------ steps

    def flags(self, seq: Seq, num_tokens: int) -> int:
        flags = Want.NONE
        if seq.computed + num_tokens == seq.known and seq.known < seq.limit:
            flags |= Want.SAMPLE | (Want.DEFERRED if seq.deferred else Want.NONE)
        if seq.params.prompt_logprobs is not None and seq.computed < len(seq.prompt) - 1:
            flags |= Want.PROMPT_LOGPROBS
        return int(flags)

    def launch(
        self,
        work: Sequence[tuple[Seq, int]],
        *,
        iterations: int = 1,
        masks: dict[int, np.ndarray] | None = None,
    ) -> Ticket:
        assert all(n > 0 for _, n in work), "a row of a step gets at least one token"
        flags = [self.flags(seq, n) for seq, n in work]
        for (seq, n), flag in zip(work, flags, strict=True):
            more = iterations - 1 if flag & Want.SAMPLE and not flag & Want.DEFERRED else 0
            more = min(more, seq.limit - seq.known - 1) if more else 0
            need = -(-(seq.computed + n + more) // self.block_len) - len(seq.blocks)
            if need > 0:
                blocks = self.take(need)
                seq.blocks += blocks
                self.extends.append(Extend(seq.row, seq.epoch, 0, tuple(blocks)))
            seq.computed += n + more
            seq.known += bool(flag & Want.SAMPLE) + more
        step = Step(
            seq=self.loaded.seq,
            rows=pack([seq.row for seq, _ in work]),
            epochs=pack([seq.epoch for seq, _ in work]),
            num_tokens=pack([n for _, n in work]),
            flags=pack(flags),
            releases=tuple(self.releases),
            admits=tuple(self.admits),
            extends=tuple(self.extends),
            copies=tuple(self.copies),
            iterations=iterations,
        )
        self.loaded.seq += 1
        self.releases, self.admits, self.extends, self.copies = [], [], [], []
        step = _decode_step(msgspec.msgpack.encode(step))
        ticket = self.runner.launch(step)
        assert ticket.seq == step.seq
        self.inflight.append((ticket, step, [seq for seq, _ in work]))
        if masks is not None:
            ticket.sample(masks)
        return ticket

    def collect(self) -> StepResult:
        """The oldest step in flight; what it brought is added to its sequences."""
        ticket, step, seqs = self.inflight.popleft()
        result = _decode_result(msgspec.msgpack.encode(self.runner.collect(ticket)))
        assert result.seq == step.seq
        assert (result.rows, result.epochs) == (step.rows, step.epochs)
        offsets, tokens = unpack(result.offsets).tolist(), unpack(result.tokens).tolist()
        finish = unpack(result.finish).tolist()
        assert len(offsets) == len(seqs) + 1
        assert len(finish) == len(seqs)
        assert offsets[0] == 0
        assert offsets[-1] == len(tokens)
        assert offsets == sorted(offsets)
        failures = {(f.row, f.epoch): f for f in result.failures}
        for i, seq in enumerate(seqs):
            new = tokens[offsets[i] : offsets[i + 1]]
            if seq.ended:  # it was asked once more before its end was seen
                assert new == []
                continue
            seq.failure = failures.get((seq.row, seq.epoch))
            if seq.failure is not None:
                assert new == []
                continue
            seq.outputs += new
            assert len(seq.outputs) <= seq.max_tokens
            seq.finish = Finish(finish[i])
            seq.prompt_logprobs += result.prompt_logprobs.get(seq.row, ())
            logprobs = result.logprobs.get(seq.row, ())
            assert len(logprobs) == (0 if seq.params.logprobs is None else len(new))
            assert [lp.token for lp in logprobs] == new[: len(logprobs)]
            seq.logprobs += logprobs
        return result

    def step(
        self,
        work: Sequence[tuple[Seq, int]],
        *,
        iterations: int = 1,
        masks: dict[int, np.ndarray] | None = None,
    ) -> StepResult:
        """Launch and collect."""
        self.launch(work, iterations=iterations, masks=masks)
        return self.collect()

    def run(self, *seqs: Seq, chunk: int = 1 << 20) -> None:
        """Step the admitted sequences to their ends, as deep as the runner overlaps."""
        while True:
            while len(self.inflight) > self.depth:
                self.collect()
            budget = self.capacity.max_step_tokens
            work = []
            for seq in seqs:
                n = min(seq.pending, chunk, budget)
                if n > 0 and not seq.ended and (seq.known < seq.limit or seq.max_tokens == 0):
                    work.append((seq, n))
                    budget -= n
            if work:
                self.launch(work)
            if self.inflight and (len(self.inflight) > self.depth or not work):
                self.collect()
            if not work and not self.inflight:
                return

    def alone(self, seq: Seq, *, row: int = 0, chunk: int = 1 << 20) -> Seq:
        """A copy of `seq`, run by itself from its beginning and released: what it must always give."""
        copy = Seq(seq.prompt, seq.params, seq.max_tokens, seq.seed, seq.eos)
        self.admit(copy, row)
        self.run(copy, chunk=chunk)
        self.release(copy)
        return copy

    def close(self) -> None:
        """Leave every row to be released by the next test's first step."""
        while self.inflight:
            self.collect()
        # Releasing twice does nothing, and a test that failed may have lost the step that said it.
        self.loaded.releases = [Release(row, epoch) for row, epoch in self.admitted]
