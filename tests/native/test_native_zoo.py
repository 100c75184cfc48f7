"""Every family on the library itself: logits and greedy tokens of tiny random models, against transformers."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType
from typing import Any

import native_gguf
import pytest
from native_driver import check_logits, load
from native_quantize import quantize_checkpoint
from native_zoo import NATIVE_ZOO, as_internlm2, as_internlm3, build_native, pin_rope
from pytorch_driver import Driver, Sequence, check_greedy
from transformers import PreTrainedModel

pytestmark = pytest.mark.usefixtures("native_library")

PACKABLE = {"intermediate_size": 128}


def check(reference: PreTrainedModel, path: Path, seed: str) -> None:
    """Logits within 1e-4, and greedy tokens equal, alone and in random batches with chunks and preemption."""
    runner, capacity = load(path)
    rng = random.Random(seed)
    vocab = capacity.vocab_size
    tokens = [rng.randrange(vocab) for _ in range(40)]
    assert check_logits(runner, capacity, reference, tokens) <= 1e-4
    prefix = tokens[:19]
    prompts = [tokens[:1], tokens[:5], tokens[17:], prefix + tokens[:2], prefix + tokens[30:]]
    alone = [Sequence(p, 12) for p in prompts]
    for s in alone:
        Driver(runner, capacity).run([s])  # type: ignore[arg-type]
    together = [Sequence(p, 12) for p in prompts]
    Driver(runner, capacity, seed=1).run_randomly(together)  # type: ignore[arg-type]
    compared = 0
    for s, other in zip(alone, together, strict=True):
        assert s.failure is None
        assert s.output == other.output
        compared += check_greedy(reference, s.prompt, s.output)[0]
    assert compared >= 12 * 4, "random weights should hardly ever meet near ties"
    runner.close()


@pytest.mark.parametrize("name", NATIVE_ZOO)
def test_logits_and_greedy_tokens_equal_transformers(name: str, tmp_path: Path) -> None:
    reference = build_native(name, tmp_path)
    pin_rope(reference, session_len=128)
    check(reference, tmp_path, name)


def test_internlm2(tmp_path: Path) -> None:
    reference = build_native("llama-bias", tmp_path)
    as_internlm2(tmp_path)
    check(reference, tmp_path, "internlm2")


def test_internlm3(tmp_path: Path) -> None:
    reference = build_native("llama-tied-bias", tmp_path)
    as_internlm3(tmp_path)
    check(reference, tmp_path, "internlm3")


@pytest.mark.parametrize(
    ("base", "method", "options"),
    [
        ("llama", "awq", {}),
        ("llama", "awq", {"group": 128}),
        ("phi3", "awq", {"group": 64}),
        ("qwen3-moe", "awq", {}),
        ("llama", "gptq", {"symmetric": True}),
        ("llama", "gptq", {"v2": True, "group": 128}),
        ("phi3", "gptq", {"group": 64, "zero_biases": True}),
    ],
)
def test_packed_weights(
    base: str, method: Any, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, changes = NATIVE_ZOO[base]
    monkeypatch.setitem(NATIVE_ZOO, "packable", (name, {**changes, **PACKABLE}))
    reference = quantize_checkpoint(tmp_path, build_native("packable", tmp_path), method, **options)
    check(reference, tmp_path, base)


KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_gguf(kind: str, tied: bool, tmp_path: Path) -> None:
    path = native_gguf.write(tmp_path / "m.gguf", kind, tied)
    check(native_gguf.reference(path, tmp_path / "cache"), path, kind)


def test_every_instruction_set_gives_the_same_tokens(tmp_path: Path, native_library: ModuleType) -> None:
    path = native_gguf.write(tmp_path / "m.gguf", "Q4_1")
    outputs = []
    for isa in native_library.cpu_isas():
        runner, capacity = load(path, isa=isa)
        assert runner.info()["isa"] == isa
        sequence = Sequence(list(range(1, 30)), 16)
        Driver(runner, capacity).run([sequence])  # type: ignore[arg-type]
        outputs.append(sequence.output)
        runner.close()
    assert all(output == outputs[-1] for output in outputs)  # the last one is the scalar reference
