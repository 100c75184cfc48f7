"""Rows that decode together on a GPU, and how far off they are by transformers. Skipped as native_cuda.py is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from native_cuda import admit, by_reference, small_plan

from deploykit.engine.types import Extend, Release, SamplingParams, Step, StepResult, Want, pack, unpack
from deploykit.plan.types import Plan

ROW_BLOCKS = 4  # of 64 tokens


def batch_plan(folder: Path, dtype: str, rows: int) -> Plan:
    return msgspec.structs.replace(
        small_plan(folder, dtype, dtype),
        session_len=64 * ROW_BLOCKS,
        max_batch_size=rows,
        max_prefill_tokens=2048,
        num_blocks=rows * ROW_BLOCKS,
    )


class Batch:
    """Rows of one runner, each with a prompt; greedy tokens and the prompts' log probabilities."""

    def __init__(self, runner: Any, prompts: list[list[int]], blocks: int = ROW_BLOCKS) -> None:
        self.runner, self.prompts, self.blocks, self.seq = runner, prompts, blocks, 0
        self.logprobs: list[list[float]] = [[] for _ in prompts]
        self.tokens: list[list[int]] = [[] for _ in prompts]

    def step(self, rows: list[int], counts: list[int], wants: list[Want], **fields: Any) -> StepResult:
        self.seq += 1
        given = {
            "rows": pack(rows),
            "epochs": pack([1] * len(rows)),
            "num_tokens": pack(counts),
            "flags": pack([int(want) for want in wants]),
        }
        result = self.runner.collect(self.runner.launch(Step(seq=self.seq, **(given | fields))))
        assert result.failures == ()
        drawn, offsets = unpack(result.tokens).tolist(), unpack(result.offsets).tolist()
        for i, row in enumerate(rows):
            self.tokens[row] += drawn[offsets[i] : offsets[i + 1]]
            self.logprobs[row] += [found.logprob for found in result.prompt_logprobs.get(row, ())]
        return result  # type: ignore[no-any-return]

    def go_on(self, decoding: list[int], fresh: list[int], count: int, scored: bool = True) -> None:
        """One step: a token for each row that decodes, the whole prompt of each fresh one. Where no prompt is scored,
        the last layer computes last tokens alone."""
        admits, extends = [], []
        sampling = SamplingParams(temperature=0.0, max_tokens=count, prompt_logprobs=0 if scored else None)
        for row in fresh:
            prompt = self.prompts[row]
            admits.append(admit(row, prompt, count, sampling))
            first = row * self.blocks
            extends.append(Extend(row, 1, 0, tuple(range(first, first + self.blocks))))
        counts = [1] * len(decoding) + [len(self.prompts[row]) for row in fresh]
        want = Want.SAMPLE | Want.PROMPT_LOGPROBS if scored else Want.SAMPLE
        wants = [Want.SAMPLE] * len(decoding) + [want] * len(fresh)
        more = {"admits": tuple(admits), "extends": tuple(extends)} if fresh else {}
        self.step([*decoding, *fresh], counts, wants, **more)

    def release(self) -> None:
        rows = range(len(self.prompts))
        self.step([], [], [], releases=tuple(Release(row, 1) for row in rows))


def compare(batch: Batch, reference: Any, noise: float) -> None:
    errors, behind = [], []
    for prompt, tokens, logprobs in zip(batch.prompts, batch.tokens, batch.logprobs, strict=True):
        want, gaps = by_reference(reference, prompt, tokens)
        if logprobs:
            errors.append(np.abs(np.array(logprobs) - want))
        behind.append(gaps)
    error, late = np.concatenate(errors), np.concatenate(behind)
    said = f"{error.mean():.4f} on average, {np.median(error):.4f} in the middle, {error.max():.3f} at most; "
    said += f"drawn tokens {late.mean():.4f} behind"
    print(said)
    assert error.mean() < noise, said
    assert np.median(error) < noise / 4, said
    assert late.mean() < noise, said  # a near tie may fall the other way
