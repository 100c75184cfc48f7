"""The table: every recipe against a machine, from files, from descriptions, with its variants."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from plan_machines import GIB, H100, gpu_machine, machine

from deploykit import shipped
from deploykit.cli._doctor_output import COLUMNS, cells, print_report
from deploykit.doctor import RecipeRow, examine
from deploykit.doctor.recipes import Table, bench_of, judge_file, shipped_recipes

BIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
LAYER = "model.layers.{0-31}"
TENSORS = {
    "{model.embed_tokens,lm_head}.weight": [[32000, 4096], "bfloat16"],
    "model.norm.weight": [[4096], "bfloat16"],
    f"{LAYER}.{{input_layernorm,post_attention_layernorm}}.weight": [[4096], "bfloat16"],
    f"{LAYER}.self_attn.{{q_proj,o_proj}}.weight": [[4096, 4096], "bfloat16"],
    f"{LAYER}.self_attn.{{k_proj,v_proj}}.weight": [[1024, 4096], "bfloat16"],
    f"{LAYER}.mlp.{{gate_proj,up_proj}}.weight": [[14336, 4096], "bfloat16"],
    f"{LAYER}.mlp.down_proj.weight": [[4096, 14336], "bfloat16"],
}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """Facts of a model of 7 billion parameters that is nowhere."""
    path = tmp_path / "big.json"
    data = {"model": "nobody/big", "config": BIG, "chat_template": None, "tensors": TENSORS}
    path.write_text(json.dumps(data))
    return path


def write(folder: Path, **files: str) -> list[Path]:
    paths = []
    for name, text in files.items():
        paths.append(folder / f"{name.replace('_', '-')}.yaml")
        paths[-1].write_text(f"version: 1\n{text}\n")
    return paths


def test_recipes_are_judged_on_this_machine(model: Path, tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        fits=f"model: {{path: {model}}}",
        too_much=f"model: {{path: {model}}}\nengine: {{cache: {{blocks: 100000000}}}}",
        absent="model: {id: nobody/nothing}",
        broken="modle: {id: a/b}",
        not_yet=f"unsupported: its vision tower is not run yet\nmodel: {{path: {model}}}",
        gpu=f"requires: {{gpu: true}}\nmodel: {{path: {model}}}",
    )
    report = examine(specs=[], machine=machine(), recipes=paths)
    found = {row.recipe: row for row in report.recipes}
    assert {name: row.fits for name, row in found.items()} == {
        "fits": "yes",
        "too-much": "no",
        "absent": "unknown",
        "broken": "invalid",
        "not-yet": "unsupported",
        "gpu": "no",
    }
    assert report.status == "ok"  # a shipped recipe that doesn't fit is no fault of the machine
    fits = found["fits"]
    assert fits.device == "cpu"
    assert fits.engine in ("native", "pytorch")
    assert fits.sessions
    assert (fits.facts, fits.missing_bytes) == ("files", 0)
    assert found["too-much"].why.startswith("needs ")
    assert "nothing describes it" in found["absent"].why
    assert found["not-yet"].why == "its vision tower is not run yet"
    assert "requires a GPU" in found["gpu"].why
    assert [row.runs for row in report.recipes] == [True, False, False, False, False, False]


def test_a_model_that_is_not_there_is_judged_by_its_description(described: Path, tmp_path: Path) -> None:
    [path] = write(
        tmp_path, big=f"model: {{id: nobody/big, facts: {described}}}\nengine: {{session_len: 8192}}"
    )
    small = judge_file(path, bench_of(machine(total=8 * GIB), tmp_path))
    assert (small.fits, small.facts) == ("no", "described")
    assert small.missing_bytes is not None
    assert small.missing_bytes > 13 * GIB
    assert "GiB of memory, " in small.why
    large = judge_file(path, bench_of(gpu_machine(H100), tmp_path))
    assert (large.fits, large.device, large.session_len) == ("yes", "cuda", 8192)
    assert large.sessions is not None
    assert large.sessions > 20


def test_the_table_says_what_a_plan_says(described: Path, model: Path, tmp_path: Path) -> None:
    """The table leaves out a plan's texts and its search for fixes, and nothing of its verdict."""
    from deploykit.deployment.facts import known_facts
    from deploykit.plan import PlanError
    from deploykit.plan.make import plan_of
    from deploykit.plan.outline import Inputs
    from deploykit.recipe import load_recipe

    models = (f"{{path: {model}}}", f"{{id: nobody/big, facts: {described}}}")
    settings = (
        "",
        "engine: {session_len: 4096}",
        "engine: {device: cpu}",
        "engine: {cache: {quant_policy: int8}}",
        "engine: {cache: {block_len: 24}}",
        "engine: {tp: 2}",
        "requires: {memory: 60GiB}",
        'requires: {compute_capability: "9.9"}',
        "unsupported: not yet",
    )
    machines = (machine(), machine(total=4 * GIB), gpu_machine(H100), gpu_machine(H100, torch_cuda=None))
    checked = 0
    for here in machines:
        bench = bench_of(here, tmp_path)
        for i, text in enumerate(f"model: {m}\n{s}" for m in models for s in settings):
            [path] = write(tmp_path, **{f"r{i}": text})
            row = judge_file(path, bench)
            loaded = load_recipe(path)
            facts = known_facts(loaded, tmp_path)
            assert facts is not None
            try:
                plan = plan_of(Inputs(loaded.recipe, facts, here, bench.native), "x")
            except PlanError:
                assert row.fits in ("no", "unsupported"), text
            else:
                assert row.fits == "yes", (text, row)
                sessions = plan.num_blocks // -(-plan.session_len // plan.block_len)
                assert (row.engine, row.device, row.session_len, row.sessions) == (
                    plan.engine,
                    plan.device,
                    plan.session_len,
                    sessions,
                )
            checked += 1
    assert checked == 72


def test_variants_are_judged_each_by_itself(described: Path, model: Path, tmp_path: Path) -> None:
    profiles = f"""profiles:
  short: {{engine: {{session_len: 2048}}}}
  long: {{engine: {{session_len: 32768}}}}
  other: {{model: {{id: null, facts: null, path: {model}}}}}
  gone: {{model: {{id: nobody/gone, facts: null}}}}
  wrong: {{engine: {{sesion_len: 1}}}}"""
    [path] = write(tmp_path, big=f"model: {{id: nobody/big, facts: {described}}}\n{profiles}")
    row = judge_file(path, bench_of(machine(total=8 * GIB), tmp_path))
    found = {v.name: v for v in row.variants}
    assert {name: v.fits for name, v in found.items()} == {
        "short": "no",
        "long": "no",
        "other": "yes",
        "gone": "unknown",
        "wrong": "invalid",
    }
    assert found["other"].sessions
    assert "sesion_len" in found["wrong"].why or "mistake" in found["wrong"].why
    assert row.fits == "no"
    assert row.runs
    large = judge_file(path, bench_of(gpu_machine(H100), tmp_path))
    rooms = {v.name: (v.session_len, v.sessions) for v in large.variants if v.fits == "yes"}
    assert rooms["short"][0] == 2048
    assert rooms["short"][1] > rooms["long"][1]  # type: ignore[operator]


def test_a_variant_may_run_where_the_recipe_is_not_supported(model: Path, tmp_path: Path) -> None:
    profiles = "profiles:\n  whole: {unsupported: null}\n  short: {engine: {session_len: 16}}"
    [path] = write(tmp_path, part=f"unsupported: at 4 bits alone\nmodel: {{path: {model}}}\n{profiles}")
    row = judge_file(path, bench_of(machine(), tmp_path))
    assert (row.fits, row.why) == ("unsupported", "at 4 bits alone")
    whole, short = row.variants
    assert (whole.name, whole.fits, whole.session_len) == ("whole", "yes", 512)
    assert (short.name, short.fits, short.why) == ("short", "unsupported", "at 4 bits alone")
    assert row.runs


def test_the_given_recipe_is_a_check_with_the_way_out(described: Path, model: Path, tmp_path: Path) -> None:
    from deploykit.recipe import load_recipe

    small = f"profiles: {{small: {{model: {{id: null, facts: null, path: {model}}}}}}}"
    paths = write(
        tmp_path,
        big=f"model: {{id: nobody/big, facts: {described}}}\n{small}",
        not_yet=f"unsupported: no tower\nmodel: {{path: {model}}}",
        gone="model: {id: nobody/gone}",
        good=f"model: {{path: {model}}}",
    )
    here = machine(total=8 * GIB)
    checks = {}
    for path in paths:
        report = examine(load_recipe(path), specs=[], machine=here, recipes=[])
        [checks[path.stem]] = report.checks
    assert {name: check.status for name, check in checks.items()} == {
        "big": "fail",
        "not-yet": "fail",
        "gone": "warn",
        "good": "ok",
    }
    assert checks["big"].fix == "use a variant that does (--profile): small"
    assert checks["not-yet"].why == "no tower"
    assert f"deploykit plan {paths[2]}" in checks["gone"].fix
    assert "context x sessions" in checks["good"].found


def test_one_recipe_that_hangs_leaves_the_others(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(
        tmp_path, a=f"model: {{path: {model}}}", b=f"model: {{path: {model}}}", c=f"model: {{path: {model}}}"
    )
    released = threading.Event()

    def hang_at_b(path: Path, bench: Any) -> RecipeRow:
        if path.stem == "b":
            released.wait(60)
        return judge_file(path, bench)

    monkeypatch.setattr("deploykit.doctor.recipes.judge_file", hang_at_b)
    rows = Table(paths, lambda: bench_of(machine(), tmp_path)).judge_all(1.5)
    released.set()
    assert [row.recipe for row in rows] == ["a", "b", "c"]
    assert [row.fits for row in rows] == ["yes", "unknown", "unknown"]
    assert "took longer" in rows[2].why


def test_all_shipped_recipes_and_those_of_the_folder_are_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    write(tmp_path / "recipes", mine="model: {id: a/b}")
    files = shipped_recipes()
    assert [file.stem for file in files] == [*shipped.names(), "mine"]


def test_no_shipped_recipe_is_invalid_or_unknown() -> None:
    report = examine(specs=[], machine=machine())
    assert {row.recipe for row in report.recipes} == set(shipped.names())
    for row in report.recipes:
        assert row.fits in ("yes", "no", "unsupported") or row.recipe == "smollm2-135m", row
        assert row.why


def test_the_table_in_a_pipe_and_on_a_terminal(
    described: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = write(
        tmp_path,
        good=f"model: {{path: {model}}}\nengine: {{session_len: 32}}\n"
        "profiles: {half: {engine: {session_len: 16}}}",
        big=f"model: {{id: nobody/big, facts: {described}}}",
        not_yet=f"unsupported: its tower is not run yet\nmodel: {{path: {model}}}",
        gone="model: {id: nobody/gone}",
    )
    report = examine(specs=[], machine=machine(total=8 * GIB), recipes=paths)
    print_report(report, verbose=False)
    out = capsys.readouterr().out
    table = [line.split() for line in out.splitlines() if line.startswith("  ")]
    assert table[0] == " ".join(COLUMNS).split()
    assert [line[0] for line in table[1:]] == ["good", "big", "not-yet", "gone"]
    assert cells(report.recipes[0])[2:4] == ("yes", f"32 x {report.recipes[0].sessions}")
    assert "half 16 x " in cells(report.recipes[0])[4]
    assert "1 of 4 recipes run here" in out

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    print_report(report, verbose=False)
    out = capsys.readouterr().out
    titles = (
        "Runs here (1)",
        "Needs more than",
        "Not known yet (1)",
        "Not yet supported by this version (1)",
    )
    assert [out.index(title) for title in titles] == sorted(out.index(title) for title in titles)
    assert all(len(line) <= 80 for line in out.splitlines())
