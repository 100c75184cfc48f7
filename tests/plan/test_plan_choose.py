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

from deploykit.engine.native.cuda import GENERATIONS
from deploykit.hardware.machine import CPU, GPU, Machine
from deploykit.plan import Plan, PlanError, make_plan

PYTORCH = recipe(engine={"backend": "pytorch"})


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
    assert [(c.engine, c.accepted) for c in plan.candidates] == [("native", True), ("pytorch", False)]
    assert "LlamaForCausalLM" in plan.candidates[0].reason
    assert plan.candidates[1].reason == "native comes first"
    assert plan.engine == "native"


def test_without_the_native_library_auto_goes_on_with_pytorch_and_says_why() -> None:
    missing = "no C++ compiler: apt install g++"
    plan = make_plan(recipe(), SMOLLM2, machine(), name="m", native_problem=missing)
    assert [(c.engine, c.accepted) for c in plan.candidates] == [("native", False), ("pytorch", True)]
    assert missing in plan.candidates[0].reason
    assert plan.engine == "pytorch"


def test_native_that_cannot_be_honoured_is_refused() -> None:
    native = recipe(engine={"backend": "native"})
    error = refused(native, SMOLLM2, machine(), native_problem="no C++ compiler: apt install g++")
    assert error.where == "engine.backend: native"
    assert "apt install g++" in str(error.why)
    assert [c.accepted for c in error.candidates] == [False, False]
    strange = msgspec.structs.replace(SMOLLM2, architecture="CohereForCausalLM")
    assert "CohereForCausalLM" in str(refused(native, strange, machine()).why)


@pytest.mark.parametrize("capability", GENERATIONS)
def test_native_runs_on_every_generation_it_has_kernels_for(capability: tuple[int, int]) -> None:
    plan = make_plan(recipe(), SMOLLM2, gpu_machine(gpu("a card", capability, 15 * GIB)), name="m")
    assert (plan.engine, plan.compute_capability) == ("native", capability)
    assert plan.dtype == ("float16" if capability < (8, 0) else "bfloat16")


def test_on_a_hopper_gpu_the_engine_is_native_where_its_library_can_be_had() -> None:
    plan = make_plan(recipe(), SMOLLM2, gpu_machine(H100), name="m")
    assert (plan.engine, plan.dtype, plan.kv_dtype) == ("native", "bfloat16", "bfloat16")
    missing = "no nvcc: install NVIDIA's CUDA toolkit"
    plan = make_plan(recipe(), SMOLLM2, gpu_machine(H100), name="m", native_cuda_problem=missing)
    assert plan.engine == "pytorch"
    assert missing in plan.candidates[0].reason


@pytest.mark.parametrize(
    ("card", "model", "why"),
    [
        (
            gpu("a card of tomorrow", (13, 0), 178 * GIB),
            {},
            "compute capability 7.5, 8.0, 8.6, 8.7, 8.9, 9.0, 1",
        ),
        (T4, {"dtype": "bfloat16"}, "float16 on a GPU below compute capability 8.0"),
        (H100, {"dtype": "float32"}, "bfloat16 or float16"),
    ],
)
def test_what_native_does_not_do_on_a_gpu_is_left_to_pytorch(
    card: GPU, model: dict[str, str], why: str
) -> None:
    sections = {"model": {"path": "m"} | model} if model else {}
    plan = make_plan(recipe(**sections), SMOLLM2, gpu_machine(card), name="m")
    assert plan.engine == "pytorch"
    assert why in plan.candidates[0].reason
    error = refused(recipe(engine={"backend": "native"}, **sections), SMOLLM2, gpu_machine(card))
    assert why in str(error.why)


def test_quantized_kv_memory_on_a_gpu_takes_fewer_bytes_a_block() -> None:
    def block(policy: str) -> int:
        engine = {"cache": {"quant_policy": policy}}
        return make_plan(recipe(engine=engine), SMOLLM2, gpu_machine(H100), name="m").block_bytes

    # a head of a block: 64 tokens of 64 elements for K and for V, and 4 bytes of scale and zero each
    heads = 30 * 3
    assert block("none") == heads * 64 * 64 * 4
    assert block("int8") == heads * (64 * 64 * 2 + 64 * 8)
    assert block("k8v4") == heads * (64 * 64 * 3 // 2 + 64 * 8)
    assert block("int4") == heads * (64 * 64 + 64 * 8)


def test_an_architecture_that_nothing_runs_is_refused() -> None:
    encoder = msgspec.structs.replace(SMOLLM2, architecture="BertModel")
    error = refused(recipe(), encoder, machine())
    assert "BertModel" in error.what
    assert {c.engine for c in error.candidates} == {"native", "pytorch"}


def test_missing_packages_are_named() -> None:
    here = machine(torch=None, transformers=None)
    assert make_plan(recipe(), SMOLLM2, here, name="m").engine == "native"  # which needs neither
    assert "torch is not installed" in str(refused(PYTORCH, SMOLLM2, here).why)
    assert "transformers is not installed" in str(refused(PYTORCH, SMOLLM2, machine(transformers=None)).why)


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
    plan = make_plan(PYTORCH, SMOLLM2, machine(CPU(model="x", cores=2, flags=flags)), name="m")
    assert (plan.dtype, plan.kv_dtype) == (dtype, dtype)


def test_dtype_on_a_gpu_follows_its_generation() -> None:
    assert make_plan(recipe(), SMOLLM2, gpu_machine(T4), name="m").dtype == "float16"
    assert make_plan(recipe(), SMOLLM2, gpu_machine(H100), name="m").dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_slow_dtype_is_honoured_and_named(dtype: str) -> None:
    wanted = recipe(model={"path": "m", "dtype": dtype}, engine={"backend": "pytorch"})
    plan = make_plan(wanted, SMOLLM2, machine(HASWELL), name="m")
    assert plan.dtype == dtype
    assert "slow" in reason(plan, "model.dtype")


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [("bfloat16", "bfloat16"), ("float16", "bfloat16"), ("float32", "float32"), ("q4_1", "bfloat16")],
)
def test_the_native_dtype_follows_how_the_weights_are_stored(stored: str, dtype: str) -> None:
    model = msgspec.structs.replace(SMOLLM2, weight_dtype=stored)
    for cpu in (ZEN4, HASWELL):
        plan = make_plan(recipe(), model, machine(cpu), name="m")
        assert (plan.engine, plan.dtype, plan.kv_dtype) == ("native", dtype, dtype)
        assert "stored" in reason(plan, "model.dtype")


def test_quantized_weights_in_float32_are_named_as_slow() -> None:
    model = msgspec.structs.replace(SMOLLM2, weight_dtype="q4_1")
    plan = make_plan(recipe(model={"path": "m", "dtype": "float32"}), model, machine(), name="m")
    assert (plan.engine, plan.dtype) == ("native", "float32")
    assert "slower" in reason(plan, "model.dtype")


def test_a_dtype_that_is_asked_for_and_fast_needs_no_note() -> None:
    for dtype in ("bfloat16", "float32"):
        plan = make_plan(recipe(model={"path": "m", "dtype": dtype}), SMOLLM2, machine(ZEN4), name="m")
        assert plan.dtype == dtype
        assert "model.dtype" not in {d.key for d in plan.decisions}


# ---------------------------------------------------------------- what this version doesn't have


def test_tensor_parallelism_is_refused() -> None:
    error = refused(recipe(engine={"tp": 2}), QWEN3_8B, gpu_machine(H100))
    assert (error.where, error.fixes) == ("engine.tp: 2", ("--set engine.tp=1",))


@pytest.mark.parametrize(("policy", "kv"), [(8, "int8"), ("k8v4", "k8v4"), (4, "int4")])
def test_quantized_kv_is_honoured_by_the_native_engine(policy: object, kv: str) -> None:
    wanted = {"cache": {"quant_policy": policy}}
    plan = make_plan(recipe(engine=wanted), SMOLLM2, machine(), name="m")
    assert (plan.engine, plan.dtype, plan.kv_dtype) == ("native", "bfloat16", kv)
    assert plan.block_bytes < make_plan(recipe(), SMOLLM2, machine(), name="m").block_bytes
    for error in (
        refused(recipe(engine=wanted | {"backend": "pytorch"}), SMOLLM2, machine()),
        refused(recipe(engine=wanted), SMOLLM2, machine(), native_problem="no C++ compiler"),
        refused(recipe(engine=wanted), SMOLLM2, gpu_machine(gpu("a card of tomorrow", (13, 0), 178 * GIB))),
    ):
        assert error.where == f"engine.cache.quant_policy: {kv}"
        assert "the dtype it computes in" in str(error.why) or "9.0" in str(error.why)
        assert error.fixes == ("--set engine.cache.quant_policy=none",)


@pytest.mark.parametrize("backend", ["auto", "native", "pytorch"])
def test_fp8_kv_is_for_gpus(backend: str) -> None:
    engine = {"backend": backend, "cache": {"quant_policy": "fp8"}}
    assert "quant_policy" in str(refused(recipe(engine=engine), SMOLLM2, machine()).where)


def test_no_quantization_can_be_written_as_a_number() -> None:
    assert (
        make_plan(recipe(engine={"cache": {"quant_policy": 0}}), SMOLLM2, machine(), name="m").kv_dtype
        == "bfloat16"
    )
