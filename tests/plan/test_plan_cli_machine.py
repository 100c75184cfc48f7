"""`deploykit plan --machine` and `--machines`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploykit.cli.app import main


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))


def test_a_plan_for_another_machine_says_what_it_assumes(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(model), "--machine", "h100x1"]) == 0
    out = capsys.readouterr().out
    for words in (
        "pytorch on cuda",
        "machine: h100x1, as described",
        "Assumed of the described machine",
        "Needs at least",
        "torch 2.",
        "Memory of GPU 0, NVIDIA H100 80GB HBM3",
    ):
        assert words in out


def test_json_holds_what_the_text_shows(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["plan", str(model), "--machine", "laptop", "--set", "engine.session_len=512"]
    assert main(args) == 0
    text = capsys.readouterr().out
    assert main([*args, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    machine, plan, sums = data["machine"], data["plan"], data["sums"]
    assert (machine["name"], machine["described"]) == ("laptop", True)
    shown: list[Any] = [
        *machine["assumed"],
        plan["name"],
        plan["model_path"],
        plan["device_name"],
        f"{sums['total_bytes']:,}",
        f"{sums['left_bytes']:,}",
        f"{sums['kv_tokens']:,} tokens: {sums['sessions']} full",
        f"{sums['kv_bytes_per_token'] / 1024:g} KiB a token",
        f"{data['model']['parameters'] / 1e6:,.0f}M parameters",
        data["template"]["reason"],
    ]
    for part in ("candidates", "decisions"):
        shown += [entry["reason"] for entry in plan[part]]
    shown += [f"{item['bytes']:,}" for item in plan["memory"]]
    shown += [change[key] for change in data["more"] for key in ("flags", "result", "cost")]
    for words in shown:
        assert words in text
    assert machine["facts"]["memory_total"] == 16 << 30


def test_json_of_this_machine_names_it_none(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(model), "--json", "--set", "engine.device=cpu"]) == 0
    machine = json.loads(capsys.readouterr().out)["machine"]
    assert (machine["name"], machine["described"], machine["assumed"]) == (None, False, [])
    assert machine["facts"]["cpu"]["cores"] >= 1


def test_what_does_not_fit_shows_costs_and_gains(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["plan", str(model), "--machine", "t4", "--set", "engine.cache.blocks=2000000"]
    assert main(args) == 3
    captured = capsys.readouterr()
    assert "Changes that would make it fit, cheapest first" in captured.out
    assert "machine: t4" in captured.out
    assert "Memory of GPU 0, Tesla T4" in captured.out
    assert main([*args, "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert [change["flags"] for change in error["changes"]] == error["fixes"]
    assert error["fixes"][0] == "--set engine.cache.blocks=null"
    assert error["missing_bytes"] == error["total_bytes"] - error["memory_limit"] > 0
    for change in error["changes"]:
        assert f"{change['flags']}  " in captured.out
        assert change["cost"] in captured.out
    bigger = [change for change in error["changes"] if change["flags"].startswith("--machine ")]
    assert len(bigger) == 1
    again = [*args[:2], *bigger[0]["flags"].split(), *args[4:]]
    assert main(again) == 0


def test_volta_is_planned_on_its_cpu_with_the_reason(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(model), "--machine", "v100"]) == 0
    out = capsys.readouterr().out
    assert "on cpu" in out
    assert "CUDA toolkits from 13 on no longer compile for it" in out
    assert main(["plan", str(model), "--machine", "v100", "--set", "engine.device=cuda"]) == 3
    captured = capsys.readouterr()
    assert "machine: v100" in captured.out
    assert "no engine of this version runs on this GPU" in captured.err


def test_a_file_describes_a_machine(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = {"name": "NVIDIA L4", "compute_capability": [8, 9], "total_bytes": 24152899584}
    data = {"memory_total": 34359738368, "cpu": {"cores": 8, "flags": ["avx2"]}, "gpus": [card]}
    as_json = tmp_path / "server.json"
    as_json.write_text(json.dumps(data, indent="\t"))
    as_yaml = tmp_path / "server.yaml"
    as_yaml.write_text(
        "memory_total: 32GiB # of the host\n"
        "cpu: {cores: 8, flags: [avx2]}\n"
        "gpus:\n  - name: NVIDIA L4\n    compute_capability: 8.9\n    total_bytes: 24152899584\n"
    )
    found = []
    for file in (as_json, as_yaml):
        assert main(["plan", str(model), "--machine", str(file), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["machine"]["facts"] == found[1]["machine"]["facts"]
    assert found[0]["plan"] == found[1]["plan"]
    assert found[0]["plan"]["device_name"] == "GPU 0, NVIDIA L4"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "m.yaml",
            "memory_totl: 1\n",
            ["m.yaml:1:1: unknown field `memory_totl`: did you mean `memory_total`?"],
        ),
        (
            "m.yaml",
            "memory_total: 8GiB\ncpu:\n  cores: many\n  flag: []\n",
            [
                "2 mistakes",
                "m.yaml:3:3: cpu.cores: must be a whole number",
                "m.yaml:4:3: unknown field `flag`",
            ],
        ),
        ("m.yaml", "memory_total: 8GiB\ngpus: [{name: x}]\n", ["gpus[0]: `total_bytes` is missing"]),
        ("m.yaml", "a: 1\na: 2\n", ["m.yaml:2:1"]),
        ("m.yaml", "a: [\n", ["m.yaml"]),
        ("m.yaml", "", ["must be a mapping"]),
        ("m.json", '{"memory_total": 1, "memory_total": 2}', ["stands there twice"]),
        ("m.json", "{", ["m.json:1:2"]),
        ("m.json", '{"memory_total": ' + "9" * 5000 + "}", ["not JSON"]),
        ("m.yaml", "memory_total: " + "9" * 400 + "GiB", ["number of bytes"]),
        ("m.json", "[" * 100_000, ["nested too deeply"]),
        ("m.json", '{"memory_total": 1, "gpus": [{"name": 5}]}', ["gpus[0].name: must be a short text"]),
        ("m.yaml", "x" * (1 << 20) + "yz", ["too large"]),
    ],
)
def test_what_is_wrong_with_a_file_is_shown_with_its_place(
    name: str, text: str, words: list[str], tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert main(["plan", str(model), "--machine", str(file)]) == 2
    err = capsys.readouterr().err
    for part in words:
        assert part in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h10", "did you mean `--machine h100`?"),
        ("rtx4090", "did you mean `--machine 4090`?"),
        ("no-such-machine-at-all", "known are b200"),
        ("./missing.yaml", "No such file"),
    ],
)
def test_a_machine_that_is_not_known_is_a_usage_error(
    name: str, words: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(model), "--machine", name]) == 2
    assert words in capsys.readouterr().err


def test_the_machines_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--machines"]) == 0
    out = capsys.readouterr().out
    for name in ("h100", "a100-40", "4090", "laptop"):
        assert f"  {name} " in out
    assert main(["plan", "--machines", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["this"]["cpu"]["cores"] >= 1
    assert data["machines"]["h100"]["facts"]["gpus"][0]["compute_capability"] == [9, 0]


def test_a_plan_of_nothing_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan"]) == 2
    assert "nothing to plan" in capsys.readouterr().err
