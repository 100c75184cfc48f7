"""4-bit weights on a GPU against transformers in float32: DEPLOYKIT_TEST_DEVICE=cuda where there is one.

Where a layer is wide enough up to four rows that decode take the chained products of sm_90, more the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from native_cuda import SHAPE, VOCAB, llama
from native_cuda_batch import Batch, batch_plan, compare
from native_quantize import quantize_checkpoint

ROWS = 8
# Mean difference of a log probability that rounding explains.
NOISE = {"bfloat16": 0.15, "float16": 0.03}


def qwen3(**changes: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**(SHAPE | changes)))


def qwen2(**changes: Any) -> Any:  # has biases
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**(SHAPE | changes)))


MODELS: dict[str, Callable[..., Any]] = {"llama": llama, "qwen2": qwen2, "qwen3": qwen3}
WIDE = {
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "initializer_range": 0.02,
}
CASES: list[tuple[str, str, Literal["awq", "gptq"], int, dict[str, Any]]] = [
    ("llama", "float16", "awq", 128, {}),
    ("llama", "bfloat16", "gptq", 64, {}),
    ("qwen2", "float16", "gptq", 32, {}),
    ("qwen3", "bfloat16", "awq", 128, {"intermediate_size": 1152}),
    ("llama", "float16", "awq", 128, WIDE),  # chained
]


@pytest.mark.parametrize(("name", "dtype", "packing", "group", "changes"), CASES)
def test_w4_logits_and_greedy_tokens_are_those_of_transformers(
    name: str,
    dtype: str,
    packing: Literal["awq", "gptq"],
    group: int,
    changes: dict[str, Any],
    tmp_path: Path,
) -> None:
    """One row alone, then 2, 3, 4 and 8 that decode, and prompts beside them."""
    import torch

    from deploykit.engine.native import NativeRunner

    torch.manual_seed(0)
    model = MODELS[name](**({"initializer_range": 0.05} | changes))
    model.save_pretrained(tmp_path)
    reference = quantize_checkpoint(tmp_path, model, packing, group=group).cuda()
    rng = np.random.default_rng(1)
    prompts = [
        rng.integers(5, VOCAB, n).tolist() for n in [90, 3, 40, *rng.integers(2, 40, ROWS - 3).tolist()]
    ]
    runner = NativeRunner()
    runner.load(batch_plan(tmp_path, dtype, ROWS), lambda *_: None)
    try:
        batch = Batch(runner, prompts)
        count = 60
        decoding: list[int] = []
        for fresh in [[0], [1], [2], [3], list(range(4, ROWS))]:
            batch.go_on(decoding, fresh, count)
            decoding += fresh
            for _ in range(8):
                batch.go_on(decoding, [], count)
        batch.release()
    finally:
        runner.close()
    compare(batch, reference, NOISE[dtype])
