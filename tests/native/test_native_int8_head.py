"""The output head in int8 on a CPU: transformers with its head rounded by torch, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import native_gguf
import numpy as np
import pytest
from native_driver import check_logits, load, native_plan
from native_int8_head import relative_error, with_int8_head
from native_zoo import build_native
from pytorch_driver import Driver, Sequence, check_greedy
from safetensors.torch import load_file, save_file

from deploykit.checkpoint import read_facts
from deploykit.engine.native.describe import describe
from deploykit.engine.native.head import head_problem, int8_head_of, without_head
from deploykit.engine.native.memory import memory_of
from deploykit.engine.native.names import manifest
from deploykit.engine.native.sizes import weight_bytes
from deploykit.errors import DeploykitError

TOKENS = [int(t) for t in np.random.default_rng(5).integers(0, 160, 40)]
# own head, tied with biases, tied with a soft cap on the logits, a head behind routed experts
MODELS = ["llama", "llama-tied-bias", "gemma2", "qwen3-moe"]


def int8(path: Path, **changes: Any) -> Any:
    return load(path, lm_head_dtype="int8", **changes)


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_tokens_are_those_of_a_rounded_head(name: str, tmp_path: Path) -> None:
    plain = build_native(name, tmp_path)
    error = relative_error(plain.lm_head.weight.detach())
    runner, capacity = int8(tmp_path)
    assert (
        check_logits(runner, capacity, plain, TOKENS) > 1e-3
    )  # it is the rounding that the check below sees
    reference = with_int8_head(plain)
    assert check_logits(runner, capacity, reference, TOKENS) <= 1e-4
    sequence = Sequence(TOKENS[:11], 12)
    Driver(runner, capacity).run([sequence])
    assert check_greedy(reference, sequence.prompt, sequence.output)[0] >= 8
    assert 0.002 < error < 0.02
    assert capacity.head_error == pytest.approx(error, rel=0.01)
    runner.close()


@pytest.mark.usefixtures("native_library")
def test_without_it_nothing_is_said(tmp_path: Path) -> None:
    build_native("llama", tmp_path)
    runner, capacity = load(tmp_path)
    assert capacity.head_error is None
    assert "int8_head_error" not in runner.info()
    runner.close()


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_rounded_from_what_is_stored(dtype: str, tmp_path: Path) -> None:
    import torch

    plain = build_native("llama-tied-bias", tmp_path)
    plain.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    reference = type(plain).from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    runner, capacity = int8(tmp_path)  # computed in float32
    assert check_logits(runner, capacity, with_int8_head(reference), TOKENS) <= 1e-4
    runner.close()


@pytest.mark.parametrize("name", ["llama", "llama-tied-bias"])
def test_predicted_bytes_are_what_is_taken(name: str, tmp_path: Path, native_library: ModuleType) -> None:
    from deploykit.engine.native.loading import load_engine

    build_native(name, tmp_path)
    facts = read_facts(tmp_path)
    weights = manifest(facts, describe(facts)).weights
    plan = native_plan(tmp_path, lm_head_dtype="int8")
    engine, capacity = load_engine(native_library, plan, facts, lambda *_: None)
    engine.close()
    assert weight_bytes((*without_head(weights), int8_head_of(weights))) == capacity["weight_bytes"]
    rows = {item.name: item.bytes for item in memory_of(facts, int8_head=True)(64, 1, 64, 0)}
    assert rows["weights"] + rows["embeddings"] + rows["output head"] == capacity["weight_bytes"]
    plain = {item.name: item.bytes for item in memory_of(facts)(64, 1, 64, 0)}
    tied = name == "llama-tied-bias"
    assert rows["embeddings"] * (1 if tied else 2) == plain["embeddings"]
    assert "output head" not in plain


@pytest.mark.usefixtures("native_library")
def test_a_head_that_is_quantized_is_refused_before_and_while_it_loads(tmp_path: Path) -> None:
    path = native_gguf.write(tmp_path / "m.gguf", "Q8_0")
    problem = head_problem(read_facts(path), "cpu")
    assert problem is not None
    assert "stored as q8_0 already, and computed as it is stored" in problem
    assert head_problem(read_facts(path), "cuda") is None  # unpacked to 16 bits there
    with pytest.raises(DeploykitError, match="made of plain weights alone") as caught:
        int8(path)
    assert "stored as q8_0" in str(caught.value)


@pytest.mark.usefixtures("native_library")
def test_a_head_with_a_number_that_is_none_is_refused_by_its_row(tmp_path: Path) -> None:
    build_native("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"][77, 3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(DeploykitError) as caught:
        int8(tmp_path)
    assert "row 77 has a value that is not finite" in str(caught.value)
    assert "lm_head.weight" in str(caught.value)


@pytest.mark.usefixtures("native_library")
def test_how_far_it_is_off_is_said_at_the_start_and_in_the_metrics(tmp_path: Path) -> None:
    from deploykit.bench.engine_run import EngineRun
    from deploykit.deployment.stage import Stage
    from deploykit.engine.protocol import Ready
    from deploykit.server.client import EngineState
    from deploykit.server.metrics import Metrics
    from deploykit.supervise.progress import Progress

    build_native("llama", tmp_path)
    plan = native_plan(tmp_path, lm_head_dtype="int8")
    with EngineRun(plan) as engine:
        engine.load()
        ready = engine.ready
    off = ready["head_error"]
    assert 0.002 < off < 0.02
    seen: list[Stage] = []
    Progress(plan, "http://127.0.0.1", seen.append, 0.0).ready(ready)
    assert f"; output head in int8, its weights off by {100 * off:.2f} %" in seen[0].detail
    message = msgspec.convert(ready, Ready)
    text = Metrics().render(EngineState(ready=message), connections=0)
    assert f"\ndeploykit_int8_head_error_ratio {off}\n" in text
    plain = msgspec.structs.replace(message, head_error=None)
    assert "int8_head" not in Metrics().render(EngineState(ready=plain), connections=0)
