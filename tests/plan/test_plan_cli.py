"""`deploykit plan` on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploykit.cli.app import main


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))


def test_a_plan_for_people(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(model), "--set", "engine.device=cpu", "--set", "engine.session_len=128"]) == 0
    out = capsys.readouterr().out
    for words in ("pytorch on cpu", "heads of 8 dimensions", "weights", "total", "engine.max_batch_size"):
        assert words in out
    assert "32 blocks of 64 tokens" in out  # 16 rows of 128 tokens
    assert "\x1b" not in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_a_plan_for_programs(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(model), "--json", "--set", "engine.device=cpu"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["fits"] is True
    assert data["plan"]["engine"] == "pytorch"
    assert data["plan"]["memory"][0]["bytes"] > 0
    assert data["error"] is None


def test_what_does_not_fit_is_exit_3(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change = ["--set", "engine.device=cpu", "--set", "engine.cache.blocks=1000000000"]
    assert main(["plan", str(model), *change]) == 3
    captured = capsys.readouterr()
    assert "missing" in captured.out
    assert "does not fit" in captured.err
    assert "engine.cache.blocks" in captured.err
    assert main(["plan", str(model), "--json", *change]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["fits"] is False
    assert data["error"]["fixes"]
    assert data["error"]["memory"]


def test_a_profile_that_would_fit_is_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        f"version: 1\nmodel: {{path: {model}}}\nengine: {{device: cpu, cache: {{blocks: 1000000000}}}}\n"
        "profiles:\n  more: {engine: {cache: {blocks: 2000000000}}}\n  less: {engine: {cache: {blocks: 64}}}\n"
    )
    assert main(["plan", str(path)]) == 3
    captured = capsys.readouterr()
    assert "--profile less" in captured.out
    assert "--profile less" in captured.err
    assert "--profile more" not in captured.err
    assert main(["plan", str(path), "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert "--profile less" in [change["flags"] for change in error["changes"]]
    assert main(["plan", str(path), "--set", "engine.cache.blocks=1000000000"]) == 3  # a profile is below it
    assert "--profile" not in capsys.readouterr().err


def test_up_names_a_profile_that_asks_for_less(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        f"version: 1\nmodel: {{path: {model}}}\nengine: {{device: cpu}}\nrequires: {{memory: 1024GiB}}\n"
        "profiles:\n  small: {requires: {memory: 1KiB}}\n"
    )
    assert main(["up", str(path)]) == 3
    assert "fix:   --profile small; or " in capsys.readouterr().err


def test_what_can_not_be_honoured_is_exit_3(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(model), "--set", "engine.backend=native"]) == 3
    assert "heads of 8 dimensions" in capsys.readouterr().err


def test_a_model_that_is_not_here_is_exit_1_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nobody/nothing", "--offline"]) == 1
    err = capsys.readouterr().err
    assert "isn't on this machine" in err
    assert "hf nobody/nothing@main" in err
    assert main(["plan", "nobody/nothing", "--offline", "--fetch"]) == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["no-such-thing"], ["x.yaml"], ["a/b", "--set", "engine.tpp=2"]])
def test_bad_targets_and_keys_are_exit_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *args]) == 2
    err = capsys.readouterr().err
    assert err
    assert "Traceback" not in err
