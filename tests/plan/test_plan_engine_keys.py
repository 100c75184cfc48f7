"""Keys of the engine that a plan turns into sizes, or refuses: step, chunks, bytes of KV memory, blocks, log-n."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from plan_machines import GIB, H100, QWEN3_8B, SMOLLM2, T4, gpu_machine, machine, recipe

from deploykit.checkpoint.facts import Facts
from deploykit.hardware.machine import Machine
from deploykit.plan import Plan, PlanError, make_plan

CARD = gpu_machine(H100)


def plan_for(facts: Facts, here: Machine, **engine: Any) -> Plan:
    return make_plan(recipe(engine=engine), facts, here, name="m")


def refused(facts: Facts, here: Machine, **engine: Any) -> PlanError:
    with pytest.raises(PlanError) as caught:
        plan_for(facts, here, **engine)
    return caught.value


def reasons(plan: Plan) -> dict[str, str]:
    return {d.key: d.reason for d in plan.decisions}


def activations(plan: Plan) -> tuple[int, str]:
    return next((item.bytes, item.note) for item in plan.memory if item.name == "activations")


# ---------------------------------------------------------------- the tokens of a step


@pytest.mark.parametrize(("here", "budget"), [(machine(), 512), (CARD, 8192)])
def test_a_step_is_what_prompts_may_have_of_it_unless_said_otherwise(here: Machine, budget: int) -> None:
    plan = plan_for(SMOLLM2, here)
    assert plan.max_prefill_tokens == plan.max_step_tokens == plan.step_capacity == budget
    assert activations(plan)[1] == f"one step of {budget} tokens"


def test_a_step_has_room_for_more_than_the_rows_that_decode() -> None:
    plan = plan_for(SMOLLM2, CARD, max_batch_size=512, max_prefill_tokens=512)
    assert plan.max_step_tokens == 513


def test_tokens_of_a_step_bound_rows_and_prompts() -> None:
    plan = plan_for(SMOLLM2, CARD, max_step_tokens=100)
    assert (plan.max_step_tokens, plan.max_prefill_tokens, plan.max_batch_size) == (100, 100, 99)
    assert reasons(plan)["engine.max_batch_size"] == "engine.max_step_tokens holds no more"
    plan = plan_for(SMOLLM2, CARD, max_step_tokens=300, max_prefill_tokens=20)
    assert (plan.max_step_tokens, plan.max_prefill_tokens, plan.max_batch_size) == (300, 20, 256)
    assert activations(plan)[1] == "one step of 300 tokens"


def test_a_step_grows_for_chunks_and_its_memory_is_counted() -> None:
    wanted: dict[str, Any] = {"session_len": 8192, "max_batch_size": 16, "max_step_tokens": 512}
    plan = plan_for(SMOLLM2, machine(), **wanted)
    assert (plan.max_prefill_tokens, plan.step_capacity) == (512, 512)
    raised = plan_for(SMOLLM2, machine(), max_prefill_chunks=4, **wanted)
    assert (raised.max_prefill_tokens, raised.max_step_tokens) == (2048, 512)
    assert raised.step_capacity == 2048 + 15
    assert "grows to 2,063" in reasons(raised)["engine.max_step_tokens"]
    assert "max_prefill_chunks" in reasons(raised)["engine.max_prefill_tokens"]
    assert activations(raised)[0] > activations(plan)[0]
    assert raised.total_bytes <= raised.memory_limit
    few = plan_for(
        SMOLLM2, machine(), max_prefill_chunks=100, **wanted
    )  # 100 chunks of 512 are more than enough
    assert (few.max_prefill_tokens, few.step_capacity) == (512, 512)


def test_an_open_session_is_no_longer_than_the_chunks_read() -> None:
    plan = plan_for(SMOLLM2, machine(), max_prefill_chunks=4, max_prefill_tokens=256)
    assert plan.session_len == 1024
    assert "max_prefill_chunks" in reasons(plan)["engine.session_len"]


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"max_step_tokens": 16, "max_batch_size": 16}, "leaves nothing for prompts"),
        ({"max_step_tokens": 64, "max_prefill_tokens": 128}, "never reads 128"),
        (
            {"max_prefill_chunks": 2, "max_prefill_tokens": 128, "session_len": 1024},
            "don't read a prompt of 1024",
        ),
        ({"max_prefill_tokens": 8, "max_batch_size": 16}, "can't serve 16 rows"),
    ],
)
def test_a_step_that_contradicts_itself_is_refused_with_what_would_do(
    engine: dict[str, Any], words: str
) -> None:
    error = refused(SMOLLM2, machine(), **engine)
    assert words in error.what
    for key in engine:
        assert f"engine.{key}: {engine[key]}" in (error.where or "")
    for fix in error.fixes:
        key, _, value = fix.removeprefix("--set engine.").partition("=")
        plan_for(SMOLLM2, machine(), **{**engine, key: value if value == "auto" else int(value)})


# ---------------------------------------------------------------- KV memory in bytes


@pytest.mark.parametrize("here", [machine(), CARD], ids=["cpu", "gpu"])
@pytest.mark.parametrize("backend", ["native", "pytorch"])
def test_kv_memory_in_bytes_is_that_many_whole_blocks(here: Machine, backend: str) -> None:
    plan = plan_for(SMOLLM2, here, backend=backend, cache={"bytes": 3 * GIB + 5})
    assert plan.num_blocks == (3 * GIB + 5) // plan.block_bytes
    kv = next(item.bytes for item in plan.memory if item.name == "kv")
    assert 3 * GIB + 5 - plan.block_bytes < kv <= 3 * GIB + 5
    assert "engine.cache.bytes" in reasons(plan)["engine.cache.blocks"]
    less = plan_for(SMOLLM2, here, backend=backend, cache={"bytes": "64MiB"})
    assert less.session_len == less.num_blocks * 64
    assert "engine.cache.bytes holds" in reasons(less)["engine.session_len"]


def test_bytes_that_hold_no_session_or_no_block_are_refused() -> None:
    error = refused(SMOLLM2, machine(), session_len=8192, cache={"bytes": "32MiB"})
    assert "less than one session of 8,192" in error.what
    need = int(error.fixes[0].rpartition("=")[2])
    assert plan_for(SMOLLM2, machine(), session_len=8192, cache={"bytes": need}).num_blocks == 128
    assert "less than one block" in refused(SMOLLM2, machine(), cache={"bytes": 0}).what


def test_bytes_that_dont_fit_are_refused_with_changes_that_do() -> None:
    error = refused(QWEN3_8B, CARD, cache={"bytes": "100GiB"})
    assert error.changes[0].flags == "--set engine.cache.bytes=null"
    plan_for(QWEN3_8B, CARD)


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    ("here", "block_len", "rule"),
    [
        (gpu_machine(H100), 32, None),
        (gpu_machine(H100), 96, None),
        (gpu_machine(H100), 48, "a multiple of 32 on a GPU from compute capability 8.0 on"),
        (gpu_machine(T4), 64, None),
        (gpu_machine(T4), 32, "a multiple of 64 on a GPU before compute capability 8.0"),
        (gpu_machine(T4), 96, "a multiple of 64"),
        (machine(), 8, None),
        (machine(), 256, None),
        (machine(), 96, "a power of two from 8 to 256 on a CPU"),
        (machine(), 512, "a power of two from 8 to 256 on a CPU"),
    ],
)
def test_the_length_of_a_block_is_checked_against_the_device(
    here: Machine, block_len: int, rule: str | None
) -> None:
    if rule is None:
        assert plan_for(SMOLLM2, here, cache={"block_len": block_len}).block_len == block_len
        return
    error = refused(SMOLLM2, here, cache={"block_len": block_len})
    assert rule in (error.why or "")
    place = here.gpus[0].name if here.gpus else "a CPU"
    assert error.where is not None
    assert f"engine.cache.block_len: {block_len}; engine.device: " in error.where
    assert place in error.where


# ---------------------------------------------------------------- log-n attention scaling


def test_logn_is_the_native_engines_and_never_left_out_in_silence() -> None:
    own = msgspec.structs.replace(SMOLLM2, config={"use_logn_attn": True})
    assert plan_for(own, machine()).engine == "native"
    assert plan_for(own, machine()).use_logn_attn is None
    assert plan_for(SMOLLM2, machine(), use_logn_attn=True).use_logn_attn is True
    for facts, keys in ((own, {}), (SMOLLM2, {"use_logn_attn": True})):
        error = refused(facts, machine(), backend="pytorch", **keys)
        assert "log-n attention scaling" in (error.why or "")
    assert plan_for(own, machine(), backend="pytorch", use_logn_attn=False).engine == "pytorch"
