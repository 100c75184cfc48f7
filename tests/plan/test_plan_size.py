"""What fits where: sessions, batches and blocks on described machines."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_machines import GIB, H100, HASWELL, MIB, QWEN3_8B, SMOLLM2, T4, gpu, gpu_machine, machine, recipe

from deploykit.checkpoint.facts import Facts
from deploykit.hardware.machine import Machine
from deploykit.plan import MemoryItem, Plan, PlanError, make_plan


def plan_for(facts: Facts, here: Machine, **engine: Any) -> Plan:
    """With the pytorch engine, unless the test says otherwise: its costs are the ones worked out here."""
    return make_plan(recipe(engine={"backend": "pytorch"} | engine), facts, here, name="m")


def decision(plan: Plan, key: str) -> str:
    return next(d.reason for d in plan.decisions if d.key == key)


def check(plan: Plan) -> None:
    """What holds for every plan."""
    assert plan.num_blocks * plan.block_len >= plan.session_len
    if "engine.max_batch_size" in {d.key for d in plan.decisions}:
        assert plan.max_batch_size <= plan.num_blocks  # a running row holds at least one block
    assert plan.max_batch_size <= plan.max_prefill_tokens
    assert plan.total_bytes <= plan.memory_limit
    kv = next(item.bytes for item in plan.memory if item.name == "kv")
    assert kv == plan.num_blocks * plan.block_bytes
    assert all(d.reason for d in plan.decisions)


# ---------------------------------------------------------------- CPU


def test_a_small_model_on_a_laptop() -> None:
    plan = plan_for(SMOLLM2, machine(total=24 * GIB))
    check(plan)
    assert (plan.session_len, plan.max_batch_size, plan.max_prefill_tokens, plan.threads) == (
        8192,
        16,
        512,
        2,
    )
    assert plan.block_bytes == 64 * 23_040
    assert plan.num_blocks == GIB // plan.block_bytes == 728
    assert "cap" in decision(plan, "engine.cache.blocks")


def test_kv_memory_is_for_the_rows_that_run_and_no_more() -> None:
    plan = plan_for(SMOLLM2, machine(), max_batch_size=4, session_len=1000)
    check(plan)
    assert plan.num_blocks == 4 * 16  # 16 blocks of 64 hold 1000 tokens


def test_kv_memory_takes_a_quarter_of_a_small_memory() -> None:
    plan = plan_for(SMOLLM2, machine(HASWELL, total=8 * GIB, available=3 * GIB))
    check(plan)
    assert plan.num_blocks == 3 * GIB // 4 // plan.block_bytes
    assert "25%" in decision(plan, "engine.cache.blocks")


def test_a_tiny_container_gets_a_shorter_session() -> None:
    plan = plan_for(SMOLLM2, machine(total=1 * GIB))
    check(plan)
    assert 512 <= plan.session_len < 8192
    assert plan.session_len % plan.block_len == 0
    assert "fits in memory" in decision(plan, "engine.session_len")


def test_a_long_trained_model_gets_a_bounded_session_on_a_cpu() -> None:
    plan = plan_for(QWEN3_8B, machine(total=24 * GIB))
    check(plan)
    assert plan.session_len == 8192
    assert "40,960" in decision(plan, "engine.session_len")


def test_a_session_that_is_asked_for_may_exceed_the_cap() -> None:
    plan = plan_for(QWEN3_8B, machine(total=32 * GIB), session_len=32768)
    check(plan)
    assert plan.num_blocks == 512
    assert "one full session" in decision(plan, "engine.cache.blocks")


def test_blocks_that_are_asked_for_are_taken_as_they_are() -> None:
    plan = plan_for(SMOLLM2, machine(), cache={"blocks": 40})
    check(plan)
    assert (plan.num_blocks, plan.session_len) == (40, 40 * 64)
    assert "engine.cache.blocks" not in {d.key for d in plan.decisions}
    plan = plan_for(SMOLLM2, machine(), cache={"blocks": 8})
    assert (plan.num_blocks, plan.session_len, plan.max_batch_size) == (8, 512, 8)


def test_a_ratio_on_a_cpu_takes_the_place_of_the_cap() -> None:
    plan = plan_for(SMOLLM2, machine(), cache={"ratio": 0.9})
    assert plan.num_blocks == 16 * 128  # every row's session, and no more than they can use
    assert "16 sessions" in decision(plan, "engine.cache.blocks")
    plan = plan_for(SMOLLM2, machine(), cache={"ratio": 0.1})
    fixed = sum(item.bytes for item in plan.memory if item.name != "kv")
    assert plan.num_blocks == int((plan.memory_limit - fixed) * 0.1) // plan.block_bytes
    assert "10% of what" in decision(plan, "engine.cache.blocks")


def test_threads_are_the_usable_cores_or_what_is_asked_for() -> None:
    assert plan_for(SMOLLM2, machine(HASWELL)).threads == 4
    plan = plan_for(SMOLLM2, machine(), threads=6)
    assert plan.threads == 6
    assert "more than the 2 cores" in decision(plan, "engine.threads")


# ---------------------------------------------------------------- GPU


def test_a_ratio_of_what_the_weights_leave_is_kv_on_a_gpu() -> None:
    plan = plan_for(QWEN3_8B, gpu_machine(H100))
    check(plan)
    assert (plan.session_len, plan.max_batch_size, plan.max_prefill_tokens) == (40960, 256, 8192)
    fixed = sum(item.bytes for item in plan.memory if item.name != "kv")
    assert plan.num_blocks == int((H100.free_bytes - fixed) * 0.8) // plan.block_bytes
    half = plan_for(QWEN3_8B, gpu_machine(H100), cache={"ratio": 0.4})
    assert half.num_blocks == pytest.approx(plan.num_blocks / 2, abs=1)


def test_golden_h100_with_an_8b_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """15.3 GiB of weights and 2.5 GiB of runtime leave 59.7 of 77.5 GiB: 80 % of it is 5,432 blocks."""

    def costs(facts: Facts, *, kv_bytes: int, **_: Any) -> tuple[MemoryItem, ...]:
        fixed = (MemoryItem("weights", int(15.3 * GIB)), MemoryItem("runtime", int(2.5 * GIB)))
        return (*fixed, MemoryItem("kv", kv_bytes))

    monkeypatch.setattr("deploykit.engine.pytorch.memory.estimate_memory", costs)
    free = int((15.3 + 2.5 + 59.68) * GIB)
    plan = plan_for(QWEN3_8B, gpu_machine(msgspec.structs.replace(H100, free_bytes=free)), session_len=8192)
    assert plan.num_blocks == 5432
    assert plan.num_blocks * plan.block_len // plan.session_len == 42


def test_a_24_gb_card_shortens_the_session() -> None:
    plan = plan_for(QWEN3_8B, gpu_machine(gpu("RTX 4090", (8, 9), 23.5 * GIB)))
    check(plan)
    assert 8192 <= plan.session_len < 40960
    longer = plan.session_len + plan.block_len
    with pytest.raises(PlanError):
        plan_for(
            QWEN3_8B,
            gpu_machine(gpu("RTX 4090", (8, 9), 23.5 * GIB)),
            session_len=longer,
            max_prefill_tokens=8192,
        )


def test_a_card_that_is_nearly_full_gets_shorter_steps() -> None:
    plan = plan_for(QWEN3_8B, gpu_machine(gpu("RTX 4090", (8, 9), 18.5 * GIB)))
    check(plan)
    assert plan.max_prefill_tokens < 8192
    assert "made smaller" in decision(plan, "engine.max_prefill_tokens")


# ---------------------------------------------------------------- what does not fit


def refused(facts: Facts, here: Machine, **engine: Any) -> PlanError:
    with pytest.raises(PlanError) as caught:
        plan_for(facts, here, **engine)
    assert caught.value.exit_code == 3
    return caught.value


def test_too_small_a_memory_shows_the_table_and_what_is_missing() -> None:
    error = refused(SMOLLM2, machine(total=512 * MIB))
    assert sum(item.bytes for item in error.memory) > error.memory_limit
    assert "weights" in str(error.why)
    assert "more" in str(error.fix)


def test_float32_that_does_not_fit_proposes_bfloat16_and_the_engine_that_keeps_weights_as_stored() -> None:
    fixes = refused(QWEN3_8B, machine(HASWELL)).fixes
    assert fixes == ("--set engine.backend=auto", "--set model.dtype=bfloat16")


def test_a_small_card_proposes_the_cpu() -> None:
    assert "--set engine.device=cpu" in refused(QWEN3_8B, gpu_machine(T4)).fixes


@pytest.mark.parametrize(
    ("engine", "key"),
    [
        ({"session_len": 40960}, "engine.session_len"),
        ({"max_batch_size": 4096}, "engine.max_batch_size"),
        ({"max_prefill_tokens": 131072}, "engine.max_prefill_tokens"),
        ({"cache": {"blocks": 3000}}, "engine.cache.blocks"),
        ({"session_len": 40960, "cache": {"ratio": 0.7}}, "engine.cache.ratio"),
    ],
)
def test_what_is_proposed_does_fit(engine: dict[str, Any], key: str) -> None:
    card = gpu_machine(gpu("RTX 4090", (8, 9), 23.5 * GIB))
    error = refused(QWEN3_8B, card, **engine)
    fix = next(fix for fix in error.fixes if key in fix)
    path, _, text = fix.removeprefix("--set ").partition("=")
    value: Any = {"auto": "auto", "null": None}.get(text) or (None if text == "null" else float(text))
    changed: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in engine.items()}
    *parents, leaf = path.split(".")[1:]
    section = changed
    for parent in parents:
        section = section.setdefault(parent, {})
    section[leaf] = value if not isinstance(value, float) or leaf == "ratio" else int(value)
    check(plan_for(QWEN3_8B, card, **changed))


def test_memory_that_is_not_known_is_said_to_be_so() -> None:
    assert "doesn't say" in str(refused(SMOLLM2, machine(total=0)).why)


# ---------------------------------------------------------------- lengths that contradict each other


def test_a_session_beyond_the_trained_length_is_refused() -> None:
    error = refused(SMOLLM2, machine(), session_len=8193)
    assert error.fixes[0] == "--set engine.session_len=8192"
    assert "8,192" in str(error.why)
    yarn = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}}
    plan = plan_for(msgspec.structs.replace(SMOLLM2, config=yarn), machine(), session_len=32768)
    assert plan.session_len == 32768


def test_a_step_must_hold_a_token_of_every_row() -> None:
    error = refused(SMOLLM2, machine(), max_batch_size=64, max_prefill_tokens=32)
    assert error.fixes == ("--set engine.max_prefill_tokens=64", "--set engine.max_batch_size=32")
    assert plan_for(SMOLLM2, machine(), max_prefill_tokens=8).max_batch_size == 8
    assert plan_for(SMOLLM2, machine(), max_batch_size=1000).max_prefill_tokens == 1000


def test_blocks_must_hold_the_session() -> None:
    error = refused(SMOLLM2, machine(), session_len=1000, cache={"blocks": 15})
    assert error.fixes == ("--set engine.cache.blocks=16", "--set engine.session_len=960")
    assert plan_for(SMOLLM2, machine(), session_len=1000, cache={"blocks": 16}).num_blocks == 16


@pytest.mark.parametrize(
    ("here", "block_len", "good"),
    [
        (machine(), 8, True),
        (machine(), 16, True),
        (machine(), 256, True),
        (machine(), 48, False),
        (machine(), 512, False),
        (gpu_machine(H100), 32, True),
        (gpu_machine(H100), 96, True),
        (gpu_machine(H100), 16, False),
        (gpu_machine(T4), 64, True),
        (gpu_machine(T4), 32, False),
    ],
)
def test_block_lengths(here: Machine, block_len: int, good: bool) -> None:
    if good:
        plan = plan_for(SMOLLM2, here, cache={"block_len": block_len})
        check(plan)
        assert plan.block_bytes == block_len * 23_040
    else:
        assert "block_len" in str(refused(SMOLLM2, here, cache={"block_len": block_len}).where)


# ---------------------------------------------------------------- the plan itself


def test_a_plan_survives_json() -> None:
    plan = plan_for(QWEN3_8B, gpu_machine(H100))
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_the_recipes_limits_reach_the_plan() -> None:
    made = make_plan(
        recipe(server={"limits": {"max_queue": 7}}, engine={"cache": {"prefix_caching": False}}),
        SMOLLM2,
        machine(),
        name="chat",
    )
    assert (made.name, made.max_queue, made.prefix_caching) == ("chat", 7, False)
    assert (made.eos_token_ids, made.vocab_size, made.model_path) == ((2,), 49152, "/models/m")


def test_a_sliding_window_is_planned_in_full_and_said_so() -> None:
    plan = plan_for(msgspec.structs.replace(SMOLLM2, sliding_window=4096), machine())
    assert plan.num_blocks == plan_for(SMOLLM2, machine()).num_blocks
    assert "4,096" in decision(plan, "engine.cache")


def test_the_fake_runner_is_planned_for_tests() -> None:
    strange = msgspec.structs.replace(SMOLLM2, architecture="NothingRunsThis")
    plan = make_plan(recipe(), strange, gpu_machine(H100), name="m", runner="fake")
    check(plan)
    assert (plan.engine, plan.device, plan.session_len) == ("fake", "cpu", 8192)
    assert plan.total_bytes - plan.num_blocks * plan.block_bytes < 100 * MIB
    with pytest.raises(ValueError, match="other"):
        make_plan(recipe(), SMOLLM2, machine(), name="m", runner="other")


_forbidden = False


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _forbidden and event in (
        "open",
        "os.listdir",
        "os.scandir",
        "subprocess.Popen",
        "socket.connect",
        "os.putenv",
    ):
        raise RuntimeError(f"the planner is pure, and this is {event}")


def test_planning_touches_nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, process or connection, no clock and no environment: the same inputs give the same plan."""
    global _forbidden
    first = plan_for(SMOLLM2, machine())  # whatever is imported late is imported now
    sys.addaudithook(_audit)

    def clock() -> float:
        raise RuntimeError("the planner doesn't look at the clock")

    monkeypatch.setattr("time.time", clock)
    monkeypatch.setattr("os.environ", {})
    monkeypatch.setattr(builtins, "input", clock)
    _forbidden = True
    try:
        again = plan_for(SMOLLM2, machine())
        with pytest.raises(PlanError):
            plan_for(SMOLLM2, machine(total=GIB // 2))
    finally:
        _forbidden = False
    assert again == first


@given(
    total=st.integers(0, 64 * GIB),
    share=st.floats(0, 1),
    session=st.sampled_from(["auto", 1, 100, 512, 8192]),
    batch=st.sampled_from(["auto", 1, 3, 400]),
    prefill=st.sampled_from(["auto", 1, 16, 4096]),
    block_len=st.sampled_from([8, 32, 64, 256]),
    blocks=st.sampled_from([None, 1, 100, 5000]),
    cuda=st.booleans(),
)
def test_every_plan_is_sound_or_refused(
    total: int, share: float, session: Any, batch: Any, prefill: Any, block_len: int, blocks: Any, cuda: bool
) -> None:
    here = machine(total=total, available=total * share)
    if cuda:
        here = gpu_machine(gpu("card", (9, 0), total, free_bytes=int(total * share)))
    engine = {
        "session_len": session,
        "max_batch_size": batch,
        "max_prefill_tokens": prefill,
        "cache": {"block_len": block_len, "blocks": blocks},
    }
    try:
        plan = plan_for(SMOLLM2, here, **engine)
    except PlanError:
        return
    assert plan.num_blocks * plan.block_len >= plan.session_len
    assert plan.total_bytes <= plan.memory_limit
    assert plan.max_batch_size <= plan.max_prefill_tokens
    assert plan.session_len == session or session == "auto"
    assert plan.max_batch_size == batch or batch == "auto"
    assert plan.max_prefill_tokens == prefill or prefill == "auto"
    assert plan.num_blocks == (blocks or plan.num_blocks)
