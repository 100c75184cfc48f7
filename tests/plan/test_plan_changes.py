"""What is proposed when a recipe doesn't fit, or could hold more: each one tried again by hand here."""

from __future__ import annotations

from typing import Any

import pytest
from plan_machines import GIB, HASWELL, QWEN3_8B, SMOLLM2, T4, gpu, gpu_machine, machine, recipe
from plan_models import MODELS

from deploykit.checkpoint.facts import Facts
from deploykit.hardware import catalog
from deploykit.hardware.machine import Machine
from deploykit.plan import Change, PlanError, make_plan
from deploykit.plan.changes import first_machine
from deploykit.plan.make import more_of
from deploykit.plan.outline import Inputs
from deploykit.recipe.schema import Recipe

CARD = gpu_machine(gpu("RTX 4090", (8, 9), 23.5 * GIB))


def applied(wanted: Recipe, flags: str) -> Recipe:
    """The recipe with `--set a.b=c --set …`, as the command line reads it."""
    data = wanted.model_dump(exclude_unset=True)
    for flag in flags.removeprefix("--set ").split(" --set "):
        path, _, text = flag.partition("=")
        section = data
        *parents, leaf = path.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        known: dict[str, Any] = {"null": None}
        value = known.get(text, text)
        if isinstance(value, str) and value.replace(".", "", 1).isdigit():
            value = float(value) if "." in value else int(value)
        section[leaf] = value
    return Recipe.model_validate(data)


def refused(wanted: Recipe, model: Facts, here: Machine) -> PlanError:
    with pytest.raises(PlanError, match="does not fit") as caught:
        make_plan(wanted, model, here, name="m")
    return caught.value


CASES = [
    (recipe(engine={"session_len": 40960, "max_batch_size": 64, "cache": {"ratio": 0.7}}), QWEN3_8B, CARD),
    (recipe(engine={"session_len": 40960, "cache": {"ratio": 0.5}}), QWEN3_8B, CARD),
    (recipe(engine={"cache": {"blocks": 3000}}), QWEN3_8B, CARD),
    (recipe(engine={"max_prefill_tokens": 131072}), QWEN3_8B, CARD),
    (recipe(engine={"backend": "pytorch", "max_batch_size": 4096}), QWEN3_8B, CARD),
    (
        recipe(engine={"device": "cpu", "session_len": 40960}),
        QWEN3_8B,
        gpu_machine(CARD.gpus[0], total=20 * GIB),
    ),
    (
        recipe(model={"path": "m", "dtype": "float32"}, engine={"backend": "pytorch"}),
        QWEN3_8B,
        machine(HASWELL),
    ),
    (recipe(), QWEN3_8B, gpu_machine(T4)),
    (recipe(engine={"session_len": 8192, "cache": {"blocks": 20000}}), SMOLLM2, machine()),
]


@pytest.mark.parametrize(("wanted", "model", "here"), CASES)
def test_every_change_that_is_proposed_does_fit(wanted: Recipe, model: Facts, here: Machine) -> None:
    error = refused(wanted, model, here)
    assert error.changes
    assert error.fixes == tuple(change.flags for change in error.changes)
    for change in error.changes:
        plan = make_plan(applied(wanted, change.flags), model, here, name="m")
        sessions = plan.num_blocks // -(-plan.session_len // plan.block_len)
        plural = "session" if sessions == 1 else "sessions"
        assert f"{sessions:,} full {plural} of {plan.session_len:,}" in change.result
        assert change.cost


def test_cheap_changes_come_first() -> None:
    error = refused(recipe(engine={"session_len": 40960, "cache": {"ratio": 0.5}}), QWEN3_8B, CARD)
    keys = [change.flags.removeprefix("--set ").partition("=")[0] for change in error.changes]
    order = ["engine.cache.ratio", "engine.cache.quant_policy", "engine.session_len", "engine.device"]
    assert [key for key in order if key in keys] == keys
    assert {"engine.cache.quant_policy", "engine.session_len"} <= set(keys)
    assert sum(key == "engine.cache.quant_policy" for key in keys) == 1  # the mildest that does


def test_kv_precision_is_not_proposed_where_the_engine_has_one_alone() -> None:
    wanted = recipe(engine={"session_len": 8192, "max_batch_size": 8, "cache": {"ratio": 0.02}})
    error = refused(wanted, MODELS["cohere"], gpu_machine(gpu("a card", (8, 9), 4 * GIB)))
    assert not any("quant_policy" in change.flags for change in error.changes)


def test_two_changes_are_proposed_where_no_single_one_does() -> None:
    wanted = recipe(engine={"session_len": 40960, "max_batch_size": 1, "max_prefill_tokens": 512})
    small = gpu_machine(gpu("a card", (8, 9), 18.1 * GIB), total=8 * GIB)
    error = refused(wanted, QWEN3_8B, small)
    assert error.changes[0].flags.count("--set") == 2
    assert ";" in error.changes[0].cost
    plan = make_plan(applied(wanted, error.changes[0].flags), QWEN3_8B, small, name="m")
    assert plan.session_len == 40960


def test_where_nothing_helps_it_says_how_much_is_missing() -> None:
    error = refused(recipe(), QWEN3_8B, gpu_machine(gpu("a card", (8, 9), 4 * GIB), total=4 * GIB))
    assert error.changes == ()
    assert "GiB more of GPU memory" in error.fixes[0]


def test_the_smallest_known_card_that_does_is_found() -> None:
    names = ("4060", "t4", "4090", "a100-80")
    known = [(name, d.machine) for name in names if (d := catalog.named(name)) is not None]
    wanted = recipe(engine={"session_len": 8192})
    change = first_machine(Inputs(wanted, QWEN3_8B, known[0][1]), known)
    assert change is not None
    assert change.flags == "--machine 4090"
    make_plan(wanted, QWEN3_8B, dict(known)["4090"], name="m")
    assert first_machine(Inputs(wanted, QWEN3_8B, known[0][1]), known[:2]) is None
    error = refused(wanted, QWEN3_8B, known[0][1])
    error.add(change)
    assert error.changes[-1] == change
    assert "--machine 4090" in str(error.fix)


@pytest.mark.parametrize(("model", "here"), [(SMOLLM2, machine()), (QWEN3_8B, CARD)])
def test_what_would_hold_more_does_hold_more(model: Facts, here: Machine) -> None:
    wanted = recipe(engine={"session_len": 8192})
    now = make_plan(wanted, model, here, name="m")
    found = more_of(Inputs(wanted, model, here))
    assert found
    for change in found:
        after = make_plan(applied(wanted, change.flags), model, here, name="m")
        assert after.num_blocks > now.num_blocks
        assert (
            f"{after.num_blocks // 128:,} full sessions of 8,192, {now.num_blocks // 128} without"
            == change.result
        )


def test_nothing_is_proposed_where_every_row_has_a_full_session() -> None:
    assert more_of(Inputs(recipe(engine={"session_len": 512}), SMOLLM2, machine())) == []


def test_proposals_are_data() -> None:
    assert Change("--set a.b=1", "nothing", "more").flags == "--set a.b=1"
