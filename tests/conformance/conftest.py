"""The runners that the conformance suite runs against, each on a plan small enough to be quick."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conformance_driver import Driver, Loaded

from deploykit.engine.types import Runner
from deploykit.plan.types import Plan

VOCAB_SIZE = 320
BLOCK_LEN = 8
LAYERS, HIDDEN, HEADS, KV_HEADS = 2, 64, 4, 2


# On a machine with a GPU, DEPLOYKIT_TEST_DEVICE=cuda checks the pytorch runner there, and the native one there too.
DEVICE = os.environ.get("DEPLOYKIT_TEST_DEVICE", "cpu")
# The native runner computes with the CPU's best instruction set; DEPLOYKIT_TEST_ISA=avx2 forces another.
ISA = os.environ.get("DEPLOYKIT_TEST_ISA", "")


def small_plan(engine: str, model_path: Path, device: str = "cpu") -> Plan:
    """float32: 8 rows, 64 blocks of 8 tokens, sessions of 256."""
    head_bytes = HIDDEN // HEADS * 4
    return Plan(
        name="conformance",
        engine=engine,
        device=device,
        devices=(0,) if device == "cuda" else (),
        model_path=str(model_path),
        architecture="LlamaForCausalLM",
        dtype="float32",
        kv_dtype="float32",
        vocab_size=VOCAB_SIZE,
        session_len=256,
        max_batch_size=8,
        max_prefill_tokens=128,
        block_len=BLOCK_LEN,
        block_bytes=2 * LAYERS * KV_HEADS * head_bytes * BLOCK_LEN,
        num_blocks=64,
    )


def make_fake(overlap_depth: int) -> Callable[[Path], tuple[Runner, Plan]]:
    def make(folder: Path) -> tuple[Runner, Plan]:
        from deploykit.engine.fake import FakeRunner

        return FakeRunner(overlap_depth=overlap_depth, check=True), small_plan("fake", folder)

    return make


def save_llama(folder: Path, dtype: str, head_dim: int = HIDDEN // HEADS) -> None:
    """A Llama of two layers with random weights, spread wide enough that logits are no near-ties."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=head_dim,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)


def make_pytorch(folder: Path) -> tuple[Runner, Plan]:
    from deploykit.engine.pytorch import PytorchRunner

    save_llama(folder, "float32")
    return PytorchRunner(), small_plan("pytorch", folder, DEVICE)


def make_native(dtype: str, kv_dtype: str) -> Callable[[Path], tuple[Runner, Plan]]:
    """The native runner on the CPU, weights stored in `dtype`. Its attention takes heads of 32 dimensions and more."""

    def make(folder: Path) -> tuple[Runner, Plan]:
        import msgspec

        from deploykit.checkpoint import read_facts
        from deploykit.engine.native import NativeRunner
        from deploykit.engine.native.memory import block_bytes

        save_llama(folder, dtype, head_dim=32)
        plan = msgspec.structs.replace(
            small_plan("native", folder),
            dtype=dtype,
            kv_dtype=kv_dtype,
            block_bytes=block_bytes(read_facts(folder), kv_dtype, BLOCK_LEN),
            threads=2,
        )
        return NativeRunner(isa=ISA), plan

    return make


def make_native_cuda(kv_dtype: str) -> Callable[[Path], tuple[Runner, Plan]]:
    """The native runner on a GPU: float16, whose rounding leaves these models' greedy tokens alone, heads of 64."""

    def make(folder: Path) -> tuple[Runner, Plan]:
        import msgspec
        import torch

        from deploykit.checkpoint import read_facts
        from deploykit.engine.native import NativeRunner
        from deploykit.engine.native.cuda import block_bytes_on_cuda

        save_llama(folder, "float16", head_dim=64)
        plan = msgspec.structs.replace(
            small_plan("native", folder, "cuda"),
            compute_capability=torch.cuda.get_device_capability(0),
            dtype="float16",
            kv_dtype=kv_dtype,
            block_len=16,
            block_bytes=block_bytes_on_cuda(read_facts(folder), kv_dtype, 16),
        )
        return NativeRunner(), plan

    return make


# A new runner is a new line here; every test of this folder then holds for it.
RUNNERS: dict[str, Callable[[Path], tuple[Runner, Plan]]] = {
    "fake": make_fake(0),
    "fake-overlap": make_fake(1),
    "pytorch": make_pytorch,
    "native": make_native("float32", "float32"),
    "native-bfloat16": make_native("bfloat16", "bfloat16"),
    "native-int8-kv": make_native("bfloat16", "int8"),
}
if DEVICE == "cuda":
    RUNNERS |= {"native-cuda": make_native_cuda("float16"), "native-cuda-int8-kv": make_native_cuda("int8")}

# On a GPU the kernel depends on the batch and on a prompt's chunks, so results agree within float16's rounding, not bit
# for bit, and this model turns a last bit into another token. What compares so is not asked of the native runner there;
# tests/native/test_native_cuda.py compares within the dtype's noise.
BIT_FOR_BIT = {
    "test_a_prompt_that_is_only_scored",
    "test_a_row_joins_while_a_step_is_in_flight",
    "test_all_rows_prefill_and_decode_in_one_step",
    "test_chunks_do_not_matter",
    "test_iterations_in_one_step",
    "test_logprobs_after_a_preemption",
    "test_masks_decide_for_deferred_rows_alone",
    "test_preempted_and_back_in_the_same_row_within_one_step",
    "test_prompt_and_output_logprobs_agree",
    "test_prompt_logprobs_beside_other_rows",
    "test_prompt_logprobs_over_chunks",
    "test_siblings_copy_the_partial_block",
    "test_the_batch_does_not_matter",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def left_out(item: pytest.Item) -> bool:
        return item.name.split("[")[0] in BIT_FOR_BIT and "[native-cuda" in item.name

    config.hook.pytest_deselected(items=[item for item in items if left_out(item)])
    items[:] = [item for item in items if not left_out(item)]


@pytest.fixture(scope="session", params=RUNNERS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """One runner, loaded once: tests share it as requests would."""
    name: str = request.param
    if name.startswith("native") and not name.startswith("native-cuda"):
        request.getfixturevalue("native_library")
    runner, plan = RUNNERS[name](tmp_path_factory.mktemp(name))
    stages: list[str] = []
    capacity = runner.load(plan, lambda stage, fraction: stages.append(stage))
    assert set(stages) <= {"weights", "engine", "kv", "warmup"}
    yield Loaded(name, runner, capacity)
    runner.close()


@pytest.fixture
def driver(loaded: Loaded) -> Iterator[Driver]:
    driver = Driver(loaded)
    yield driver
    driver.close()
