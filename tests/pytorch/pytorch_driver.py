"""A tiny step driver for the runner, and transformers.generate as the reference. Not the engine's loop, on purpose."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from deploykit.checkpoint import read_facts
from deploykit.engine.pytorch import PytorchRunner
from deploykit.engine.types import (
    Admit,
    Capacity,
    Copy,
    Extend,
    Release,
    SamplingParams,
    Step,
    StepResult,
    Want,
    pack,
    unpack,
)
from deploykit.plan.types import Plan

NEAR_TIE = 1e-4  # logits closer than this may be told apart differently


def make_plan(path: Path | str, **changes: Any) -> Plan:
    """A plan for a checkpoint with small, test-sized limits."""
    facts = read_facts(Path(path))
    values: dict[str, Any] = {
        "name": "test",
        "engine": "pytorch",
        "device": "cpu",
        "model_path": str(path),
        "architecture": facts.architecture,
        "dtype": "float32",
        "kv_dtype": changes.get("dtype", "float32"),
        "vocab_size": facts.vocab_size,
        "session_len": 128,
        "max_batch_size": 8,
        "max_prefill_tokens": 64,
        "block_len": 8,
        "block_bytes": 0,
        "num_blocks": 96,
        "threads": 2,
    }
    return Plan(**{**values, **changes})


def load(path: Path | str, **changes: Any) -> tuple[PytorchRunner, Capacity]:
    runner = PytorchRunner()
    return runner, runner.load(make_plan(path, **changes), lambda stage, fraction: None)


class Sequence:
    """One request as the driver sees it."""

    def __init__(self, prompt: list[int], max_tokens: int, **sampling: Any) -> None:
        self.prompt = prompt
        self.output: list[int] = []
        self.params = SamplingParams(**{"temperature": 0, "max_tokens": max_tokens, **sampling})
        self.limit = len(prompt) + max_tokens
        self.eos: tuple[int, ...] = ()
        self.row = -1
        self.epoch = -1
        self.blocks: list[int] = []
        self.computed = 0
        self.done = False
        self.logprobs: list[Any] = []
        self.prompt_logprobs: list[Any] = []
        self.failure: tuple[str, str] | None = None
        self.history: list[list[int]] = []

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.output


class Driver:
    """Plans steps at random within the runner's capacity: chunks, batches, preemption, shared prefixes."""

    def __init__(self, runner: PytorchRunner, capacity: Capacity, seed: int = 0) -> None:
        self.runner = runner
        self.capacity = capacity
        self.block_len = capacity.groups[0].block_len
        self.free = list(range(capacity.groups[0].num_blocks))
        self.random = random.Random(seed)
        self.random.shuffle(self.free)
        self.rows = list(range(capacity.max_rows))
        self.running: list[Sequence] = []
        self.epoch = 0
        self.seq = 0
        self.admits: list[Admit] = []
        self.extends: list[Extend] = []
        self.releases: list[Release] = []
        self.copies: list[Copy] = []
        self.prefixes: dict[tuple[int, ...], int] = {}  # whole-block prefixes whose KV stands in a block
        self.refs: dict[int, int] = {}

    def admit(self, s: Sequence, share: bool = False) -> None:
        s.row, self.epoch = self.rows.pop(self.random.randrange(len(self.rows))), self.epoch + 1
        s.epoch, s.computed, s.blocks = self.epoch, 0, []
        if share:
            tokens = s.tokens
            for end in range(self.block_len, len(tokens), self.block_len):
                block = self.prefixes.get(tuple(tokens[:end]))
                if block is None:
                    break
                s.blocks.append(block)
                self.refs[block] += 1
                s.computed = end
        self.admits.append(
            Admit(
                row=s.row,
                epoch=s.epoch,
                tokens=pack(s.tokens),
                prompt_len=len(s.prompt),
                computed=s.computed,
                limit=s.limit,
                sampling=s.params,
                seed=s.params.seed or 0,
                eos_token_ids=s.eos,
            )
        )
        if s.blocks:
            self.extends.append(Extend(s.row, s.epoch, 0, tuple(s.blocks)))
        self.running.append(s)

    def release(self, s: Sequence) -> None:
        self.releases.append(Release(s.row, s.epoch))
        self.rows.append(s.row)
        self.running.remove(s)
        for block in s.blocks:
            self.refs[block] -= 1
            if self.refs[block] == 0 and block not in self.prefixes.values():
                self.free.append(block)
        s.blocks, s.computed = [], 0

    def grow(self, s: Sequence, tokens: int) -> None:
        count = -(-tokens // self.block_len) - len(s.blocks)
        if count > 0:
            new = [self.free.pop() for _ in range(count)]
            for block in new:
                self.refs[block] = 1
            s.blocks += new
            self.extends.append(Extend(s.row, s.epoch, 0, tuple(new)))

    def step(
        self, work: list[tuple[Sequence, int]], iterations: int = 1, want: Want = Want.NONE
    ) -> StepResult:
        flags = []
        for s, count in work:
            ends = s.computed + count == len(s.tokens)
            flags.append((want | Want.SAMPLE) if ends else want)
            self.grow(s, s.computed + count + (iterations - 1 if ends else 0))
        self.seq += 1
        step = Step(
            seq=self.seq,
            rows=pack([s.row for s, _ in work]),
            epochs=pack([s.epoch for s, _ in work]),
            num_tokens=pack([n for _, n in work]),
            flags=pack([int(f) for f in flags]),
            admits=tuple(self.admits),
            extends=tuple(self.extends),
            releases=tuple(self.releases),
            copies=tuple(self.copies),
            iterations=iterations,
        )
        self.admits, self.extends, self.releases, self.copies = [], [], [], []
        result = self.runner.collect(self.runner.launch(step))
        failures = {f.row: (f.code, f.reason) for f in result.failures}
        offsets, tokens, finish = unpack(result.offsets), unpack(result.tokens), unpack(result.finish)
        for i, (s, count) in enumerate(work):
            new = tokens[offsets[i] : offsets[i + 1]].tolist()
            s.computed += count + max(len(new) - 1, 0)
            s.output += new
            s.logprobs += result.logprobs.get(s.row, ())
            s.prompt_logprobs += result.prompt_logprobs.get(s.row, ())
            s.failure = failures.get(s.row)
            s.done = bool(finish[i]) or s.failure is not None
            for end in range(self.block_len, s.computed + 1, self.block_len):
                self.prefixes.setdefault(tuple(s.tokens[:end]), s.blocks[end // self.block_len - 1])
        for s, _ in work:
            if s.done and s in self.running:
                self.release(s)
        return result

    def run(self, sequences: list[Sequence], *, chunk: int = 10_000, iterations: int = 1) -> None:
        """All at once, in order."""
        for s in sequences:
            self.admit(s)
        while self.running:
            work = [(s, min(chunk, len(s.tokens) - s.computed)) for s in self.running]
            self.step(work, iterations=iterations)
        self.step([])

    def run_randomly(self, sequences: list[Sequence], *, preempt: float = 0.1) -> None:
        """Random arrivals, chunks, batches, preemptions, and prefix hits wherever a prefix is known."""
        waiting = list(sequences)
        while waiting or self.running:
            while waiting and self.rows and self.random.random() < 0.6:
                self.admit(waiting.pop(self.random.randrange(len(waiting))), share=True)
            if self.running and self.random.random() < preempt:
                victim = self.random.choice(self.running)
                if not any(a.row == victim.row for a in self.admits):
                    self.release(victim)
                    waiting.append(victim)
            chosen = [s for s in self.running if self.random.random() < 0.8]
            if not chosen:
                continue
            budget, work = self.capacity.max_step_tokens, []
            for s in chosen:
                pending = len(s.tokens) - s.computed
                count = min(pending, budget, self.random.choice([1, 3, 7, 16, 64]))
                if count > 0:
                    budget -= count
                    work.append((s, count))
            self.step(work)
        self.step([])


@torch.inference_mode()
def check_greedy(model: PreTrainedModel, prompt: list[int], output: list[int]) -> tuple[int, int]:
    """Asserts that every token of `output` is transformers' own greedy choice after what came before it.

    Teacher-forced with transformers' own attention and cache: where the reference's two best logits are closer than
    `NEAR_TIE`, either is right and both go on from the reference's token; such a row is only compared up to there.
    Returns (tokens compared, near ties met).
    """
    generated = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=len(output),
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        eos_token_id=None,
        pad_token_id=0,
    )
    reference = generated.sequences[0, len(prompt) :].tolist()
    for i, (own, right) in enumerate(zip(output, reference, strict=True)):
        if own != right:
            best = generated.logits[i][0].float().topk(2).values
            gap = float(best[0] - best[1])
            assert gap < NEAR_TIE, f"token {i}: {own} instead of {right}, {gap} apart: {output} {reference}"
            return i, 1
    return len(output), 0
