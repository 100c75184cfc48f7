"""Device, engine and dtype on described machines, with a reason for each."""

from __future__ import annotations

import msgspec
import pytest
from plan_machines import (
    GIB,
    H100,
    HASWELL,
    QWEN3_8B,
    SMOLLM2,
    T4,
    V100,
    ZEN4,
    gpu,
    gpu_machine,
    machine,
    recipe,
)

from deploykit.hardware.machine import CPU, Machine
from deploykit.plan import Plan, PlanError, make_plan


def reason(plan: Plan, key: str) -> str:
    return next(d.reason for d in plan.decisions if d.key == key)


def refused(*args: object, **options: object) -> PlanError:
    with pytest.raises(PlanError) as caught:
        make_plan(*args, name="m", **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    assert caught.value.fix
    return caught.value


# ---------------------------------------------------------------- device


def test_a_usable_gpu_is_taken() -> None:
    plan = make_plan(recipe(), SMOLLM2, gpu_machine(H100), name="m")
    assert (plan.device, plan.devices, plan.dtype) == ("cuda", (0,), "bfloat16")
    assert "H100" in reason(plan, "engine.device")


def test_the_gpu_with_the_most_free_memory_is_taken() -> None:
    busy = msgspec.structs.replace(H100, free_bytes=4 * GIB)
    free = msgspec.structs.replace(H100, index=1)
    for wanted in ("auto", "cuda"):
        plan = make_plan(recipe(engine={"device": wanted}), SMOLLM2, gpu_machine(busy, free), name="m")
        assert plan.devices == (1,)
        assert plan.memory_limit == free.free_bytes
        assert "most of 2" in reason(plan, "engine.device")


@pytest.mark.parametrize(
    ("here", "why"),
    [
        (gpu_machine(V100), "compute capability 7.0"),
        (gpu_machine(H100, torch="2.13.0+cpu", torch_cuda=None), "built for the CPU alone"),
        (gpu_machine(H100, torch=None, torch_cuda=None), "torch is not installed"),
        (gpu_machine(gpu("A100", (8, 0), 40 * GIB, cuda_driver="12.4")), "runs CUDA 12.4 at most"),
        (machine(), "NVML Shared Library Not Found"),
        (machine(gpu_error=None), "no GPU was found"),
    ],
)
def test_without_a_usable_gpu_auto_says_why_it_takes_the_cpu_and_cuda_is_refused(
    here: Machine, why: str
) -> None:
    if here.torch is not None:
        plan = make_plan(recipe(), SMOLLM2, here, name="m")
        assert (plan.device, plan.devices) == ("cpu", ())
        assert why in reason(plan, "engine.device")
    error = refused(recipe(engine={"device": "cuda"}), SMOLLM2, here)
    assert why in str(error.why)
    assert error.where == "engine.device: cuda"


def test_a_gpu_can_be_left_alone() -> None:
    plan = make_plan(recipe(engine={"device": "cpu"}), SMOLLM2, gpu_machine(H100), name="m")
    assert plan.device == "cpu"
    assert "engine.device" not in {d.key for d in plan.decisions}


# ---------------------------------------------------------------- engine


def test_every_engine_is_listed_with_a_reason() -> None:
    plan = make_plan(recipe(), SMOLLM2, machine(), name="m")
    assert [(c.engine, c.accepted) for c in plan.candidates] == [("native", False), ("pytorch", True)]
    assert plan.candidates[0].reason == "the native engine is not part of this version"
    assert "LlamaForCausalLM" in plan.candidates[1].reason
    assert plan.engine == "pytorch"


def test_native_cannot_be_honoured_and_is_refused() -> None:
    error = refused(recipe(engine={"backend": "native"}), SMOLLM2, machine())
    assert error.where == "engine.backend: native"
    assert "not part of this version" in str(error.why)
    assert [c.accepted for c in error.candidates] == [False, False]


def test_an_architecture_that_nothing_runs_is_refused() -> None:
    encoder = msgspec.structs.replace(SMOLLM2, architecture="BertModel")
    error = refused(recipe(), encoder, machine())
    assert "BertModel" in error.what
    assert {c.engine for c in error.candidates} == {"native", "pytorch"}


def test_missing_packages_are_named() -> None:
    assert "transformers is not installed" in str(refused(recipe(), SMOLLM2, machine(transformers=None)).why)


# ---------------------------------------------------------------- dtype


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        (("avx2", "avx512_bf16"), "bfloat16"),
        (("avx512f", "amx_bf16"), "bfloat16"),
        (("neon", "bf16"), "bfloat16"),
        (("avx2", "avx512f"), "float32"),
        ((), "float32"),
    ],
)
def test_dtype_on_a_cpu_follows_its_instructions(flags: tuple[str, ...], dtype: str) -> None:
    plan = make_plan(recipe(), SMOLLM2, machine(CPU(model="x", cores=2, flags=flags)), name="m")
    assert (plan.dtype, plan.kv_dtype) == (dtype, dtype)


def test_dtype_on_a_gpu_follows_its_generation() -> None:
    assert make_plan(recipe(), SMOLLM2, gpu_machine(T4), name="m").dtype == "float16"
    assert make_plan(recipe(), SMOLLM2, gpu_machine(H100), name="m").dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_slow_dtype_is_honoured_and_named(dtype: str) -> None:
    plan = make_plan(recipe(model={"path": "m", "dtype": dtype}), SMOLLM2, machine(HASWELL), name="m")
    assert plan.dtype == dtype
    assert "slow" in reason(plan, "model.dtype")


def test_a_dtype_that_is_asked_for_and_fast_needs_no_note() -> None:
    for dtype in ("bfloat16", "float32"):
        plan = make_plan(recipe(model={"path": "m", "dtype": dtype}), SMOLLM2, machine(ZEN4), name="m")
        assert plan.dtype == dtype
        assert "model.dtype" not in {d.key for d in plan.decisions}


# ---------------------------------------------------------------- what this version doesn't have


def test_tensor_parallelism_is_refused() -> None:
    error = refused(recipe(engine={"tp": 2}), QWEN3_8B, gpu_machine(H100))
    assert (error.where, error.fixes) == ("engine.tp: 2", ("--set engine.tp=1",))


@pytest.mark.parametrize("policy", [8, "k8v4", "fp8"])
def test_quantized_kv_is_refused(policy: object) -> None:
    error = refused(recipe(engine={"cache": {"quant_policy": policy}}), SMOLLM2, machine())
    assert "quant_policy" in str(error.where)


def test_no_quantization_can_be_written_as_a_number() -> None:
    assert (
        make_plan(recipe(engine={"cache": {"quant_policy": 0}}), SMOLLM2, machine(), name="m").kv_dtype
        == "bfloat16"
    )
