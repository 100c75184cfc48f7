"""The native engine on a GPU against transformers in float32: DEPLOYKIT_TEST_DEVICE=cuda on a machine that has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from native_cuda import NOISE, SHAPE, VOCAB, Conversation, admit, by_reference, llama, small_plan
from native_logn import with_logn

from deploykit.engine.types import Extend, SamplingParams, Want, pack, unpack

LOGN_TRAINED = 40  # positions, where attention grows with the logarithm beyond them
KV_NOISE = {"16": 0.0, "int8": 0.06, "k8v4": 0.6, "int4": 1.0, "fp8": 0.4}


def qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SHAPE))


def gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    shape = SHAPE | {"head_dim": 256, "num_attention_heads": 4, "sliding_window": 64, "layer_types": kinds}
    return Gemma2ForCausalLM(Gemma2Config(**shape))


MODELS: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama-heads-of-128-tied": lambda: llama(head_dim=128, tie_word_embeddings=True),
    "qwen3": qwen3,
    "gemma2": gemma2,
    "llama-logn": lambda: llama(use_logn_attn=True, seq_length=LOGN_TRAINED),
}


@pytest.fixture(scope="module", params=[(m, d) for m in MODELS for d in NOISE], ids="-".join)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(folder, dtype, the model in float32 on the GPU)."""
    import torch

    name, dtype = request.param
    torch.manual_seed(0)
    model = MODELS[name]().to(getattr(torch, dtype)).eval()
    folder = tmp_path_factory.mktemp(name)
    model.save_pretrained(folder)
    if name == "llama-logn":
        model = with_logn(model, LOGN_TRAINED)
    return folder, dtype, model.float().cuda()


@pytest.mark.parametrize("kv", list(KV_NOISE))
def test_logits_and_greedy_tokens_are_those_of_transformers(saved: Any, kv: str) -> None:
    from deploykit.engine.native import NativeRunner
    from deploykit.engine.native.cuda import block_bytes_on_cuda

    folder, dtype, reference = saved
    from deploykit.checkpoint import read_facts

    kv_dtype = dtype if kv == "16" else kv
    prompt = np.random.default_rng(1).integers(5, VOCAB, 300).tolist()
    runner = NativeRunner()
    capacity = runner.load(small_plan(folder, dtype, kv_dtype), lambda *_: None)
    try:
        assert capacity.overlap_depth == 1
        assert capacity.groups[0].block_bytes == block_bytes_on_cuda(read_facts(folder), kv_dtype, 64)
        conversation = Conversation(runner)
        logprobs, tokens = conversation.ask(prompt, 24, chunk=100)
        _, again = conversation.ask(prompt, 24, chunk=100)
    finally:
        runner.close()
    assert again == tokens
    want, behind = by_reference(reference, prompt, tokens)
    error = np.abs(np.array(logprobs) - want)
    allowed = NOISE[dtype] + KV_NOISE[kv]
    assert error.mean() < allowed, f"{error.mean():.3f} on average, {error.max():.3f} at most"
    assert behind.max() < 8 * allowed  # a near tie may fall the other way


PARAMETERS: dict[str, dict[str, Any]] = {
    "plain": {"temperature": 1.0},
    "truncated": {"temperature": 0.7, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
    "greedy, penalties": {"temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.4},
    "presence": {"temperature": 0.9, "presence_penalty": 1.5, "frequency_penalty": -0.3},
    "biased": {"temperature": 0.8, "logit_bias": {3: 4.0, 17: -100.0, 511: 2.5}},
    "bad words": {"temperature": 0.5, "bad_words": ((7,), (7, 8, 9), (300, 301))},
    "long enough": {"temperature": 1.2, "min_tokens": 40, "stop_token_ids": tuple(range(100, 140))},
    "all": {
        "temperature": 0.9,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "logit_bias": {5: 1.0},
        "bad_words": ((11,),),
        "min_tokens": 40,
        "stop_token_ids": (4,),
    },
}


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch

    from deploykit.engine.native import NativeRunner

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("drawing")
    llama().to(torch.bfloat16).save_pretrained(folder)
    runner = NativeRunner()
    runner.load(small_plan(folder, "bfloat16", "bfloat16"), lambda *_: None)
    yield Conversation(runner)
    runner.close()


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_the_device_draws_what_the_reference_sampler_draws(conversation: Any, name: str) -> None:
    prompt = np.random.default_rng(2).integers(5, VOCAB, 50).tolist()
    answers = []
    for best in (None, 20, 21):  # more than 20 best tokens: the host draws, with the reference sampler
        sampling = SamplingParams(max_tokens=32, logprobs=best, **PARAMETERS[name])
        _, tokens = conversation.ask(prompt, 32, 64, sampling)
        answers.append((tokens, conversation.drawn))
    (plain, none), (on_device, device_found), (on_host, host_found) = answers
    assert plain == on_device == on_host
    assert none == []
    assert [found.token for found in device_found] == on_host
    for mine, theirs in zip(device_found, host_found, strict=True):
        assert mine.rank == theirs.rank
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-9)
        assert [t for t, _ in mine.top] == [t for t, _ in theirs.top][:20]
        assert [x for _, x in mine.top] == pytest.approx([x for _, x in theirs.top][:20], abs=1e-9)


@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_many_rows_at_once_draw_what_transformers_would(tmp_path: Path, kv: str) -> None:
    """A batch so large that rotation and attention over 4-bit KV memory are kernels of their own."""
    import torch

    from deploykit.engine.native import NativeRunner

    torch.manual_seed(0)
    model = llama().to(torch.bfloat16).eval()
    model.save_pretrained(tmp_path)
    reference = model.float().cuda()
    rows, count, at_once = 200, 5, 8
    rng = np.random.default_rng(3)
    prompts = [rng.integers(5, VOCAB, int(n)).tolist() for n in rng.integers(10, 31, rows)]
    plan = small_plan(tmp_path, "bfloat16", kv)
    runner = NativeRunner()
    runner.load(msgspec.structs.replace(plan, max_batch_size=rows, num_blocks=rows), lambda *_: None)
    drawn: list[list[int]] = [[] for _ in range(rows)]
    try:
        batch = Conversation(runner)
        sampling = SamplingParams(temperature=0.0, max_tokens=count)
        for first in range(0, rows, at_once):
            some = range(first, first + at_once)
            admits = tuple(admit(row, prompts[row], count, sampling) for row in some)
            result = batch.step(
                admits=admits,
                extends=tuple(Extend(row, 1, 0, (row,)) for row in some),
                rows=pack(list(some)),
                epochs=pack([1] * at_once),
                num_tokens=pack([len(prompts[row]) for row in some]),
                flags=pack([int(Want.SAMPLE)] * at_once),
            )
            for row, token in zip(some, unpack(result.tokens).tolist(), strict=True):
                drawn[row].append(token)
        for _ in range(count - 1):
            result = batch.step(
                rows=pack(list(range(rows))),
                epochs=pack([1] * rows),
                num_tokens=pack([1] * rows),
                flags=pack([int(Want.SAMPLE)] * rows),
            )
            for tokens, token in zip(drawn, unpack(result.tokens).tolist(), strict=True):
                tokens.append(token)
    finally:
        runner.close()
    behind = []
    for prompt, tokens in zip(prompts, drawn, strict=True):
        behind += by_reference(reference, prompt, tokens)[1].tolist()
    allowed = NOISE["bfloat16"] + KV_NOISE[kv]
    assert np.mean(behind) < allowed, f"{np.mean(behind):.3f} on average, {np.max(behind):.3f} at most"
    assert np.max(behind) < 8 * allowed
