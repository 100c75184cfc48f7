"""What the native engine takes: its own memory table and block sizes, on described machines."""

from __future__ import annotations

import msgspec
import pytest
from plan_machines import GIB, HASWELL, MIB, QWEN3_8B, SMOLLM2, machine, recipe

from deploykit.checkpoint.facts import Facts
from deploykit.plan import Plan, PlanError, make_plan


def stored_as(facts: Facts, dtype: str, bits: float) -> Facts:
    """The same checkpoint with its matrices stored in another format."""
    tensors = tuple(
        msgspec.structs.replace(t, dtype=dtype, nbytes=int(t.num_elements * bits / 8))
        if len(t.shape) == 2
        else msgspec.structs.replace(t, dtype="float32", nbytes=4 * t.num_elements)
        for t in facts.tensors
    )
    return msgspec.structs.replace(facts, tensors=tensors, weight_dtype=dtype)


def item(plan: Plan, name: str) -> int:
    return next(i.bytes for i in plan.memory if i.name == name)


def test_weights_take_what_they_take_on_the_disk_and_a_few_percent() -> None:
    for facts in (SMOLLM2, stored_as(SMOLLM2, "q4_1", 5), stored_as(SMOLLM2, "q8_0", 8.5)):
        plan = make_plan(recipe(), facts, machine(), name="m")
        packed = item(plan, "weights") + item(plan, "embeddings")
        assert facts.stored_bytes * 0.99 <= packed <= facts.stored_bytes * 1.05
        assert plan.total_bytes <= plan.memory_limit
        assert item(plan, "kv") == plan.num_blocks * plan.block_bytes


def test_the_engine_without_torch_fits_where_torch_does_not() -> None:
    small = machine(HASWELL, total=700 * MIB, available=600 * MIB)
    four_bit = stored_as(SMOLLM2, "q4_1", 5)
    assert make_plan(recipe(), four_bit, small, name="m").engine == "native"
    with pytest.raises(PlanError, match="does not fit"):
        make_plan(recipe(engine={"backend": "pytorch"}), four_bit, small, name="m")


@pytest.mark.parametrize(
    ("policy", "kib"),
    [
        # 30 layers * 3 heads * (K and V of 64 dimensions), and 8 bytes of scales and zeros a token where quantized
        ("none", 22.5),
        ("int8", 30 * 3 * (64 + 64 + 8) / 1024),
        ("k8v4", 30 * 3 * (64 + 32 + 8) / 1024),
        ("int4", 30 * 3 * (32 + 32 + 8) / 1024),
    ],
)
def test_kv_bytes_of_a_token(policy: str, kib: float) -> None:
    plan = make_plan(recipe(engine={"cache": {"quant_policy": policy}}), SMOLLM2, machine(), name="m")
    assert plan.block_bytes == 64 * kib * 1024


def test_smaller_kv_means_more_of_it() -> None:
    def blocks(policy: str) -> int:
        engine = {"cache": {"quant_policy": policy}, "session_len": 32768, "max_batch_size": 16}
        return make_plan(recipe(engine=engine), QWEN3_8B, machine(total=64 * GIB), name="m").num_blocks

    assert blocks("none") <= blocks("int8") <= blocks("int4")


def test_what_a_checkpoint_lacks_is_named_where_native_is_asked_for() -> None:
    broken = msgspec.structs.replace(SMOLLM2, tensors=SMOLLM2.tensors[:-1])
    with pytest.raises(PlanError, match="can't be used") as caught:
        make_plan(recipe(engine={"backend": "native"}), broken, machine(), name="m")
    assert "model.layers.29.mlp.down_proj.weight" in str(caught.value.why)


def test_a_rope_factor_stretches_the_longest_session_and_is_for_native_alone() -> None:
    wanted = {"rope_scaling_factor": 2.0, "session_len": 12000}
    plan = make_plan(recipe(engine=wanted), SMOLLM2, machine(), name="m")
    assert (plan.engine, plan.session_len, plan.rope_scaling_factor) == ("native", 12000, 2.0)
    # the base of dynamic NTK grows with the session: no length is the last one
    longer = make_plan(recipe(engine=wanted | {"session_len": 40000}), SMOLLM2, machine(), name="m")
    assert longer.session_len == 40000
    with pytest.raises(PlanError):
        make_plan(recipe(engine={"session_len": 12000}), SMOLLM2, machine(), name="m")
    with pytest.raises(PlanError) as caught:
        make_plan(recipe(engine=wanted | {"backend": "pytorch"}), SMOLLM2, machine(), name="m")
    assert "rope_scaling_factor" in str(caught.value.why)
