"""What the GPU tests share: a small Llama and its plan, a row's conversation with a runner, and what transformers says.

A test file that imports this is skipped where DEPLOYKIT_TEST_DEVICE is not cuda.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deploykit.engine.types import (
    Admit,
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

if os.environ.get("DEPLOYKIT_TEST_DEVICE", "cpu") != "cuda":
    pytest.skip("needs a GPU: set DEPLOYKIT_TEST_DEVICE=cuda", allow_module_level=True)

VOCAB = 512
BLOCKS = 8  # of 64 tokens: a session
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "initializer_range": 0.08,
    "tie_word_embeddings": False,
}
# Mean difference of a prompt's log probabilities (logits of spread 1.8) that rounding to the dtype explains: weights
# this wide amplify it, in bfloat16 eight times more than in float16.
NOISE = {"bfloat16": 0.25, "float16": 0.05}


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**(SHAPE | changes)))


def admit(row: int, prompt: list[int], count: int, sampling: SamplingParams, *, epoch: int = 1) -> Admit:
    return Admit(
        row=row,
        epoch=epoch,
        tokens=pack(prompt),
        prompt_len=len(prompt),
        computed=0,
        limit=len(prompt) + count,
        sampling=sampling,
        seed=1,
    )


class Conversation:
    """One row on a loaded runner: a prompt in chunks, then greedy tokens, with the prompt's log probabilities."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.seq = 0
        self.epoch = 0

    def step(self, **fields: Any) -> StepResult:
        self.seq += 1
        empty = {"rows": b"", "epochs": b"", "num_tokens": b"", "flags": b""}
        result = self.runner.collect(self.runner.launch(Step(seq=self.seq, **(empty | fields))))
        assert result.failures == ()
        return result  # type: ignore[no-any-return]

    def ask(
        self, prompt: list[int], count: int, chunk: int, sampling: SamplingParams | None = None
    ) -> tuple[list[float], list[int]]:
        self.epoch += 1
        self.drawn: list[Any] = []  # the drawn tokens' log probabilities
        plain = sampling is None
        sampling = sampling or SamplingParams(temperature=0.0, max_tokens=count, prompt_logprobs=0)
        first = admit(0, prompt, count, sampling, epoch=self.epoch)
        start = {"admits": (first,), "extends": (Extend(0, self.epoch, 0, tuple(range(BLOCKS))),)}
        row = {"rows": pack([0]), "epochs": pack([self.epoch])}
        logprobs: list[float] = []
        tokens: list[int] = []
        for at in range(0, len(prompt), chunk):
            length = min(chunk, len(prompt) - at)
            last = at + length == len(prompt)
            want = Want.SAMPLE if last else Want.NONE
            if plain:
                want |= Want.PROMPT_LOGPROBS
            more = start if at == 0 else {}
            result = self.step(**row, num_tokens=pack([length]), flags=pack([int(want)]), **more)
            logprobs += [found.logprob for found in result.prompt_logprobs.get(0, ())]
            self.drawn += result.logprobs.get(0, ())
            tokens += unpack(result.tokens).tolist()
        while len(tokens) < count:
            result = self.step(**row, num_tokens=pack([1]), flags=pack([int(Want.SAMPLE)]))
            self.drawn += result.logprobs.get(0, ())
            tokens += unpack(result.tokens).tolist()
        self.step(releases=(Release(0, self.epoch),))
        return logprobs, tokens


def small_plan(folder: Path, dtype: str, kv_dtype: str) -> Plan:
    import torch

    return Plan(
        name="t",
        engine="native",
        device="cuda",
        devices=(0,),
        compute_capability=torch.cuda.get_device_capability(0),
        model_path=str(folder),
        architecture="",
        dtype=dtype,
        kv_dtype=kv_dtype,
        vocab_size=VOCAB,
        session_len=64 * BLOCKS,
        max_batch_size=8,
        max_prefill_tokens=256,
        block_len=64,
        block_bytes=0,
        num_blocks=2 * BLOCKS,
    )


def by_reference(
    reference: Any, prompt: list[int], tokens: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """By the model in float32: log probabilities of the prompt's tokens after the first, and how far the logit of each
    drawn token is behind the best one's."""
    import torch

    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + tokens]).cuda()).logits[0].float()
    logprobs = torch.log_softmax(logits, -1)[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
    drawn = logits[len(prompt) - 1 : -1]
    behind = drawn.max(-1).values - drawn[torch.arange(len(tokens)), torch.tensor(tokens)]
    return logprobs.cpu().numpy(), behind.cpu().numpy()
