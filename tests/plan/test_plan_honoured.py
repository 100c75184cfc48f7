"""Every key that an engine has a say in, set for each engine on each device: the plan accepts it and is another one, or
refuses it in the words of the table that the docs are made from."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from plan_machines import H100, gpu_machine, machine, recipe
from plan_models import MODELS, stored

from deploykit.checkpoint.facts import Facts
from deploykit.plan import Plan, PlanError, make_plan
from deploykit.recipe.honoured import HONOURED, TARGETS, honoured_by, refusals
from deploykit.recipe.schema import CacheSection, EngineSection, ModelSection
from deploykit.recipe.tree import lookup

MACHINES = {
    "cpu": machine(compiler="g++"),
    "cuda": gpu_machine(H100, compiler="g++", nvcc="nvcc", toolkit="13.0"),
}
CHOICES = ("engine.backend", "engine.device")
CASES = [
    (key, case, target)
    for key, cases in HONOURED.items()
    if key not in CHOICES
    for case in cases
    for target in TARGETS
]


def plan_for(target: str, key: str = "", value: Any = None, facts: Facts | None = None) -> Plan:
    engine, device = target.split("/")
    data: dict[str, Any] = {"model": {"path": "/m"}, "engine": {"backend": engine, "device": device}}
    section = data
    *path, name = key.split(".")
    for part in path:
        section = section.setdefault(part, {})
    if name:
        section[name] = value
    return make_plan(recipe(**data), facts or MODELS["llama"], MACHINES[device], name="m")


def in_format(name: str) -> Facts:
    """The same model as a checkpoint of that format."""
    model = MODELS["llama"]
    known = {"hf": "bfloat16", "gguf": "q4_1", "awq": "awq", "gptq": "gptq", "fp8": "fp8"}
    if name in known:
        return stored(model, known[name])
    section = {"quantization_config": {"quant_method": name}}
    return msgspec.structs.replace(model, quant_method=name, config={**model.config, **section})


@pytest.mark.parametrize(
    ("key", "case", "target"), CASES, ids=[f"{key}={case.value}-{target}" for key, case, target in CASES]
)
def test_the_plan_accepts_and_refuses_what_the_table_says(key: str, case: Any, target: str) -> None:
    facts = in_format(case.value) if key == "model.format" else None
    if target in case.refused:
        assert case.refused[target], "a refusal has a reason"
        with pytest.raises(PlanError) as caught:
            plan_for(target, key, case.value, facts)
        assert case.refused[target] in f"{caught.value.what} {caught.value.why}"
        return
    plan = plan_for(target, key, case.value, facts)
    assert f"{plan.engine}/{plan.device}" == target
    if key == "model.format":
        assert facts is not None
        assert facts.layout == case.value
    elif key != "model.dtype":  # one of them is what `auto` takes
        assert plan != plan_for(target), "a key that changes nothing is inert"
    else:
        assert plan.dtype == case.value


@pytest.mark.parametrize("key", CHOICES)
def test_an_engine_and_a_device_that_are_asked_for_are_taken(key: str) -> None:
    name = key.removeprefix("engine.")
    for case in HONOURED[key]:
        plan = make_plan(recipe(engine={name: case.value}), MODELS["llama"], MACHINES["cuda"], name="m")
        assert {"backend": plan.engine, "device": plan.device}[name] == case.value


def test_every_key_that_an_engine_has_a_say_in_is_in_the_table() -> None:
    keys = {f"engine.{name}" for name in EngineSection.model_fields if name != "cache"}
    keys |= {f"engine.cache.{name}" for name in CacheSection.model_fields}
    assert set(HONOURED) == keys | {"model.dtype", "model.format"}
    for key, cases in HONOURED.items():
        node = lookup(tuple(key.split(".")))
        assert node is not None
        values = [choice for choice in node.choices if isinstance(choice, str)]
        assert set(values) - {"auto", "none"} <= {case.value for case in cases}, key
    assert set(ModelSection.model_fields) >= {"dtype", "format"}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("engine.session_len", "every engine"),
        ("engine.tp", "no engine of this version"),
        ("engine.rope_scaling_factor", "`native`"),
        ("engine.use_logn_attn", "`true`: `native`; `false`: every engine"),
        ("engine.cache.quant_policy", "`int8`, `k8v4`, `int4`: `native`; `fp8`: `native` on a GPU"),
        ("model.dtype", "`bfloat16`, `float16`: every engine; `float32`: `pytorch`, `native` on a CPU"),
        ("server.port", "every engine"),
    ],
)
def test_it_reads_as_a_sentence(key: str, words: str) -> None:
    assert honoured_by(key) == words


def test_refusals_name_the_values_and_the_reason_once() -> None:
    assert refusals("engine.cache.quant_policy") == [
        "`quant_policy: int8`, `k8v4`, `int4`, `fp8` by `pytorch`: "
        "it keeps keys and values in the dtype it computes in",
        "`quant_policy: fp8` by `native` on a CPU: it has int8, k8v4, int4 and no fp8",
    ]
    assert refusals("engine.tp") == [
        "`tp: 2` by every engine: every engine of this version runs on one device"
    ]
    assert refusals("server.port") == []
