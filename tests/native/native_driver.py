"""Loads the native runner on a checkpoint with test-sized limits; the pytorch tests' driver plans its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_driver import Driver, Sequence, make_plan
from transformers import PreTrainedModel

from deploykit.checkpoint import read_facts
from deploykit.engine.native import NativeRunner
from deploykit.engine.native.memory import block_bytes
from deploykit.engine.types import Capacity, Want
from deploykit.plan.types import Plan


def native_plan(path: Path, **changes: Any) -> Plan:
    """float32 unless `dtype` says otherwise; the block's bytes are the planner's, which the library checks."""
    values = {"engine": "native", **changes}
    kv_dtype = values.setdefault("kv_dtype", values.get("dtype", "float32"))
    block_len = values.get("block_len", 8)
    return make_plan(path, **{"block_bytes": block_bytes(read_facts(path), kv_dtype, block_len), **values})


def load(path: Path, *, isa: str = "", **changes: Any) -> tuple[NativeRunner, Capacity]:
    runner = NativeRunner(isa)
    return runner, runner.load(native_plan(path, **changes), lambda stage, fraction: None)


def log_probabilities(runner: NativeRunner, capacity: Capacity, tokens: list[int]) -> NDArray[np.float64]:
    """float64 [T - 1, vocab]: the engine's own distributions after each token but the last."""
    sequence = Sequence(tokens, 1, prompt_logprobs=capacity.vocab_size)
    driver = Driver(runner, capacity)  # type: ignore[arg-type]
    driver.admit(sequence)
    while not sequence.done:
        count = min(capacity.max_step_tokens, len(tokens) - sequence.computed)
        driver.step([(sequence, count)], want=Want.PROMPT_LOGPROBS)
    driver.step([])
    assert sequence.failure is None
    found = np.empty((len(tokens) - 1, capacity.vocab_size))
    for position, one in enumerate(sequence.prompt_logprobs):
        for token, logprob in one.top:
            found[position, token] = logprob
    return found


def check_logits(
    runner: NativeRunner, capacity: Capacity, reference: PreTrainedModel, tokens: list[int]
) -> float:
    """The largest difference to transformers' log probabilities, relative to its largest logit."""
    with torch.inference_mode():
        logits = reference(torch.tensor([tokens])).logits[0, :-1].double()
    expected = torch.log_softmax(logits, dim=-1).numpy()
    got = log_probabilities(runner, capacity, tokens)
    return float(np.abs(got - expected).max() / logits.abs().max())
