"""`unsupported` and `requires`: what a recipe says itself is held against the machine before anything is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plan_machines import GIB, H100, SMOLLM2, T4, gpu_machine, machine, recipe

from deploykit.checkpoint.facts import Facts
from deploykit.cli.app import main
from deploykit.deployment.prepare import prepare
from deploykit.plan import PlanError, make_plan
from deploykit.plan.stated import check_machine
from deploykit.recipe import recipe_from_data

NATIVE = "not built"


def _plan(given: Any, where: Any, model: Facts = SMOLLM2) -> Any:
    return make_plan(given, model, where, name="x", native_problem=NATIVE, native_cuda_problem=NATIVE)


def test_an_unsupported_model_is_refused_with_its_text_and_what_it_would_take() -> None:
    given = recipe(unsupported="latent attention is not implemented")
    with pytest.raises(PlanError) as caught:
        _plan(given, machine())
    error = caught.value
    assert error.exit_code == 3
    assert error.why == "latent attention is not implemented"
    assert error.outlook is not None
    rows = {item.name: item.bytes for item in error.outlook.memory}
    assert rows["weights"] == SMOLLM2.stored_bytes
    assert rows["kv"] > 0


def test_a_formula_that_is_not_known_is_not_shown() -> None:
    hybrid = msgspec.structs.replace(SMOLLM2, config={"layer_types": ["of a new kind"] * 30})
    with pytest.raises(PlanError) as caught:
        _plan(recipe(unsupported="no"), machine(), hybrid)
    assert caught.value.outlook is not None
    assert [item.name for item in caught.value.outlook.memory] == ["weights"]


@pytest.mark.parametrize(
    ("requires", "here", "words"),
    [
        ({"gpu": True}, machine(), "requires a GPU"),
        ({"compute_capability": "8.0"}, gpu_machine(T4), "compute capability 8.0 or newer"),
        ({"memory": "200GiB"}, gpu_machine(H100), "less memory free"),
        ({"memory": "200GiB"}, machine(), "less memory free"),
    ],
)
def test_a_machine_that_lacks_it_is_refused(requires: dict[str, Any], here: Any, words: str) -> None:
    given = recipe(requires=requires)
    for check in (lambda: _plan(given, here), lambda: check_machine(given, here)):
        with pytest.raises(PlanError, match=words) as caught:
            check()
        assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("requires", "here"),
    [
        ({"gpu": True, "compute_capability": "9.0", "memory": "70GiB"}, gpu_machine(H100)),
        ({"compute_capability": "9.0"}, machine()),  # it is about a GPU that serves, and none does
        ({"memory": "1GiB"}, machine()),
        ({}, machine()),
    ],
)
def test_a_machine_that_has_it_plans(requires: dict[str, Any], here: Any) -> None:
    given = recipe(requires=requires)
    check_machine(given, here)
    assert _plan(given, here).total_bytes > 0


def test_changes_that_would_fit_lift_the_requirement_where_it_stands_in_their_way() -> None:
    here = machine(total=4 * GIB)
    given = recipe(requires={"memory": "8GiB"}, engine={"session_len": 8192, "cache": {"blocks": 4096}})
    with pytest.raises(PlanError, match="does not fit") as caught:
        _plan(given, here)
    assert caught.value.changes
    assert all("--set requires.memory=null" in change.flags for change in caught.value.changes)


def test_nothing_is_downloaded_for_a_model_that_is_refused(tmp_path: Path) -> None:
    given = {"version": 1, "unsupported": "no engine has this", "model": {"path": str(tmp_path / "nowhere")}}
    with pytest.raises(PlanError, match="no engine of this version") as caught:
        prepare(recipe_from_data(given, name="x"))
    assert "no engine has this" in str(caught.value)
    given = {"version": 1, "requires": {"memory": "1000GiB"}, "model": {"path": str(tmp_path / "nowhere")}}
    with pytest.raises(PlanError, match="less memory free"):
        prepare(recipe_from_data(given, name="x"))


# ---------------------------------------------------------------- from described facts


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose model is nowhere, and a description of it beside it."""
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 32,
        "vocab_size": 512,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
    }
    layer = "model.layers.{0-1}."
    tensors = {
        "{model.embed_tokens,lm_head}.weight": [[512, 64], "bfloat16"],
        "model.norm.weight": [[64], "bfloat16"],
        layer + "{input_layernorm,post_attention_layernorm}.weight": [[64], "bfloat16"],
        layer + "self_attn.{q_proj,k_proj,v_proj,o_proj}.weight": [[64, 64], "bfloat16"],
        layer + "mlp.{gate_proj,up_proj}.weight": [[128, 64], "bfloat16"],
        layer + "mlp.down_proj.weight": [[64, 128], "bfloat16"],
    }
    data = {"model": "a/b", "config": config, "chat_template": "chat_template.jinja", "tensors": tensors}
    (tmp_path / "facts").mkdir()
    (tmp_path / "facts" / "b.json").write_text(json.dumps(data))
    file = tmp_path / "b.yaml"
    file.write_text("version: 1\nmodel: {path: nowhere/b, facts: facts/b.json}\n")
    return file


def test_a_model_that_is_not_there_is_planned_from_its_description(
    described: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(described), "--machine", "laptop", "--offline"]) == 0
    out = capsys.readouterr().out
    assert "the recipe's description" in out
    assert "the checkpoint's own, from chat_template.jinja" in out
    assert main(["plan", str(described), "--machine", "laptop", "--offline", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["model"]["origin"] == "described"
    assert data["plan"]["session_len"] == 512


def test_doctor_judges_it_from_its_description(described: Path, tmp_path: Path) -> None:
    from deploykit.doctor.recipes import bench_of, judge_file

    bench = bench_of(machine(), tmp_path)
    assert judge_file(described, bench).fits == "yes"
    described.write_text(described.read_text() + "unsupported: its layers are of a new kind\n")
    row = judge_file(described, bench)
    assert row.fits == "unsupported"
    assert "its layers are of a new kind" in row.why


def test_a_description_never_starts_an_engine(described: Path) -> None:
    with pytest.raises(Exception, match="nowhere"):
        prepare(str(described))
