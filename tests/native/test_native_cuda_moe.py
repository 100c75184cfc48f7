"""Mixtures of experts on a GPU against transformers in float32: DEPLOYKIT_TEST_DEVICE=cuda where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from native_quantize import quantize_checkpoint
from test_native_cuda import SHAPE, VOCAB, small_plan

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

ROWS = 48
ROW_BLOCKS = 4  # of 64 tokens
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
        for row in fresh:
            prompt = self.prompts[row]
            admits.append(
                Admit(
                    row=row,
                    epoch=1,
                    tokens=pack(prompt),
                    prompt_len=len(prompt),
                    computed=0,
                    limit=len(prompt) + count,
                    sampling=SamplingParams(
                        temperature=0.0, max_tokens=count, prompt_logprobs=0 if scored else None
                    ),
                    seed=1,
                )
            )
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
    import torch

    errors, behind = [], []
    for prompt, tokens, logprobs in zip(batch.prompts, batch.tokens, batch.logprobs, strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + tokens]).cuda()).logits[0].float()
        chosen = torch.log_softmax(logits, -1)[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
        if logprobs:
            errors.append(np.abs(np.array(logprobs) - chosen.cpu().numpy()))
        drawn = logits[len(prompt) - 1 : -1]
        behind.append(
            (drawn.max(-1).values - drawn[torch.arange(len(tokens)), torch.tensor(tokens)]).cpu().numpy()
        )
    error, late = np.concatenate(errors), np.concatenate(behind)
    said = f"{error.mean():.4f} on average, {np.median(error):.4f} in the middle, {error.max():.3f} at most; "
    said += f"drawn tokens {late.mean():.4f} behind"
    print(said)
    assert error.mean() < noise, said
    assert np.median(error) < noise / 4, said
    assert late.mean() < noise, said  # a near tie may fall the other way


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
    plan = msgspec.structs.replace(
        small_plan(tmp_path, dtype, dtype),
        session_len=64 * ROW_BLOCKS,
        max_batch_size=ROWS,
        max_prefill_tokens=2048,
        num_blocks=ROWS * ROW_BLOCKS,
    )
    runner = NativeRunner()
    runner.load(plan, lambda *_: None)
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
