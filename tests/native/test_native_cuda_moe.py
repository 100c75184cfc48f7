"""Mixtures of experts on a GPU against transformers in float32: DEPLOYKIT_TEST_DEVICE=cuda where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from native_cuda import SHAPE, VOCAB, small_plan
from native_cuda_batch import ROW_BLOCKS, Batch, batch_plan, compare
from native_quantize import quantize_checkpoint

ROWS = 48
# Mean difference of a log probability that rounding explains, tokens that take another expert included.
NOISE = {"bfloat16": 0.08, "float16": 0.03}
_SHAPE = SHAPE | {"initializer_range": 0.05}


def mixtral(**changes: Any) -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    own = {"intermediate_size": 512, "num_local_experts": 8, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**(_SHAPE | own | changes)))


def qwen3_moe(**changes: Any) -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    own = {"moe_intermediate_size": 192, "num_experts": 40, "num_experts_per_tok": 5, "norm_topk_prob": True}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**(_SHAPE | own | changes)))


MODELS: dict[str, Callable[[], Any]] = {
    "mixtral": mixtral,
    "qwen3-moe": qwen3_moe,
    "qwen3-moe-mixed": lambda: qwen3_moe(norm_topk_prob=False, mlp_only_layers=[1]),
}
CASES = [(m, d, None) for m in MODELS for d in NOISE]
CASES += [("mixtral", "float16", "awq"), ("qwen3-moe", "float16", "gptq"), ("qwen3-moe", "bfloat16", "awq")]


def save(name: str, dtype: str, packing: Literal["awq", "gptq"] | None, folder: Path) -> Any:
    """The checkpoint in `folder`; transformers' model of it in float32, on the GPU."""
    import torch

    torch.manual_seed(0)
    model = MODELS[name]()
    for at, parameter in model.named_parameters():
        if at.endswith("mlp.gate.weight"):
            parameter.data *= 2  # routers that are sure of themselves: rounding changes few choices
    if packing is not None:
        model.save_pretrained(folder)
        return quantize_checkpoint(folder, model, packing, group=64).cuda()
    return rounded(model, dtype, folder)


def rounded(model: Any, dtype: str, folder: Path) -> Any:
    """The model's weights in `dtype`, saved; the same in float32, with the angles that a loaded model has."""
    import torch

    angles = model.model.rotary_emb.inv_freq.clone()
    model = model.to(getattr(torch, dtype)).eval()
    model.save_pretrained(folder)
    model = model.float()
    model.model.rotary_emb.inv_freq = angles
    return model.cuda()


@pytest.mark.parametrize(("name", "dtype", "packing"), CASES, ids=lambda value: str(value or "plain"))
def test_moe_logits_and_greedy_tokens_are_those_of_transformers(
    name: str, dtype: str, packing: Literal["awq", "gptq"] | None, tmp_path: Path
) -> None:
    """Batches of 1 to 48 rows, prompts beside decodes, prompts of hundreds of tokens."""
    from deploykit.engine.native import NativeRunner

    reference = save(name, dtype, packing, tmp_path)
    rng = np.random.default_rng(1)
    lengths = [150, 3, 40, *rng.integers(2, 40, ROWS - 3).tolist()]
    prompts = [rng.integers(5, VOCAB, n).tolist() for n in lengths]
    runner = NativeRunner()
    runner.load(batch_plan(tmp_path, dtype, ROWS), lambda *_: None)
    try:
        batch = Batch(runner, prompts)
        count = 40
        batch.go_on([], [0], count)  # a prompt alone, then a decode alone
        for _ in range(6):
            batch.go_on([0], [], count)
        batch.go_on([0], [1, 2], count)  # prompts beside it
        for _ in range(4):
            batch.go_on([0, 1, 2], [], count)
        batch.go_on([0, 1, 2], list(range(3, 12)), count)
        for _ in range(4):
            batch.go_on(list(range(12)), [], count)
        batch.go_on(list(range(12)), list(range(12, ROWS)), count, scored=False)
        for _ in range(4):
            batch.go_on(list(range(ROWS)), [], count)
        batch.release()
    finally:
        runner.close()
    compare(batch, reference, NOISE[dtype])


def test_moe_weights_and_scratch_are_what_the_plan_says(tmp_path: Path) -> None:
    from deploykit.checkpoint import read_facts
    from deploykit.engine.native import NativeRunner
    from deploykit.engine.native.cuda import memory_on_cuda

    save("qwen3-moe-mixed", "float16", "awq", tmp_path)
    table = memory_on_cuda(read_facts(tmp_path), "float16")(2048, 8, 64 * ROW_BLOCKS, 0)
    planned = {item.name: item.bytes for item in table}
    runner = NativeRunner()
    capacity = runner.load(
        msgspec.structs.replace(small_plan(tmp_path, "float16", "float16"), max_prefill_tokens=2048),
        lambda *_: None,
    )
    runner.close()
    weights = planned["weights"] + planned["embeddings"]
    assert weights <= capacity.weight_bytes <= weights + 256 * 60  # pieces begin at 256 bytes


def test_moe_prompts_beyond_the_slots_memory_are_routed_in_parts(tmp_path: Path) -> None:
    import torch

    from deploykit.engine.native import NativeRunner

    torch.manual_seed(0)
    wide = {"intermediate_size": 4096, "num_experts_per_tok": 8, "num_hidden_layers": 1}
    reference = rounded(mixtral(**wide, max_position_embeddings=16384), "float16", tmp_path)
    plan = msgspec.structs.replace(
        small_plan(tmp_path, "float16", "float16"),
        session_len=16384,
        max_prefill_tokens=16384,
        num_blocks=256,
        max_batch_size=1,
    )
    runner = NativeRunner()
    runner.load(plan, lambda *_: None)
    try:
        # A token's 8 slots are 73,728 bytes: 14,336 tokens are routed at once.
        batch = Batch(runner, [np.random.default_rng(2).integers(5, VOCAB, 16000).tolist()], blocks=256)
        batch.go_on([], [0], 4)
        batch.go_on([0], [], 4)
        batch.release()
    finally:
        runner.close()
    compare(batch, reference, NOISE["float16"] / 4)  # all experts are taken: no token takes another one
