"""The examination as a whole, and the command around it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_machines import machine

from deploykit.cli.app import main
from deploykit.doctor import CHECKS, CheckSpec, Context, Finding, examine
from deploykit.doctor.check import run_check

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def test_a_check_that_crashes_becomes_a_finding(context: Make) -> None:
    def crash(_: Context) -> Finding:
        raise KeyError("surprise")

    done = run_check(CheckSpec("x", "X", crash), context())
    assert done.status == "warn"
    assert "surprise" in done.why


def test_a_check_that_hangs_is_left_behind(context: Make) -> None:
    def hang(_: Context) -> Finding:
        time.sleep(30)
        raise AssertionError

    done = run_check(CheckSpec("x", "X", hang, limit_s=0.05), context())
    assert done.status == "warn"
    assert "0.05 s" in done.why


def test_checks_have_distinct_ids_and_a_limit() -> None:
    ids = [spec.id for spec in CHECKS]
    assert len(set(ids)) == len(ids)
    assert all(0 < spec.limit_s <= 5 for spec in CHECKS)


def test_the_worst_check_is_the_verdict() -> None:
    def says(status: Any) -> CheckSpec:
        return CheckSpec(status, status, lambda _: Finding(status, "found"))

    here = machine()
    for statuses, verdict in (
        (["ok", "skip"], "ok"),
        (["ok", "warn"], "warn"),
        (["warn", "fail", "ok"], "fail"),
    ):
        report = examine(specs=[says(s) for s in statuses], machine=here, recipes=[])
        assert report.status == verdict
        assert [check.status for check in report.checks] == statuses


def test_recipes_are_judged_on_this_machine(model: Path, tmp_path: Path) -> None:
    files = {
        "fits.yaml": f"version: 1\nmodel: {{path: {model}}}\n",
        "too-much.yaml": f"version: 1\nmodel: {{path: {model}}}\nengine: {{cache: {{blocks: 100000000}}}}\n",
        "native.yaml": f"version: 1\nmodel: {{path: {model}}}\nengine: {{backend: native}}\n",
        "absent.yaml": "version: 1\nmodel: {id: nobody/nothing}\n",
        "broken.yaml": "version: 1\nmodle: {id: a/b}\n",
    }
    paths = []
    for name, text in files.items():
        paths.append(tmp_path / name)
        paths[-1].write_text(text)
    report = examine(specs=[], machine=machine(), recipes=paths)
    assert [row.fits for row in report.recipes] == ["yes", "no", "no", "unknown", "invalid"]
    assert report.status == "ok"  # a shipped recipe that doesn't fit is no fault of the machine
    fits, too_much, native, absent, _ = report.recipes
    assert (fits.engine, fits.device) == ("pytorch", "cpu")
    assert fits.sessions
    assert "does not fit" in too_much.why
    assert "native" in native.why
    assert absent.why == "weights not fetched"


# ---------------------------------------------------------------- the command


def test_doctor_prints_every_check_and_exits_by_the_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts: list[Any] = ["ok"]
    checks = (
        CheckSpec("a", "First", lambda _: Finding(verdicts[0], "what it saw", "why it matters", "do this")),
    )
    monkeypatch.setattr("deploykit.doctor.run.CHECKS", checks)
    monkeypatch.setattr(
        "deploykit.doctor.run.examine.__kwdefaults__", {"specs": checks, "machine": None, "recipes": []}
    )
    for verdict, strict, code in (("ok", [], 0), ("warn", [], 0), ("warn", ["--strict"], 1), ("fail", [], 1)):
        verdicts[0] = verdict
        assert main(["doctor", *strict]) == code
        out = capsys.readouterr().out
        assert "what it saw" in out
        assert ("fix: do this" in out) is (verdict != "ok")
        assert "\x1b" not in out


def test_doctor_json_on_the_real_machine(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"version: 1\nmodel: {{path: {model}}}\nserver: {{port: 0}}\n")
    code = main(["doctor", str(recipe), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (1 if report["status"] == "fail" else 0)
    checks = {check["id"]: check for check in report["checks"]}
    assert {spec.id for spec in CHECKS} | {"recipe"} == set(checks)
    assert set(checks["cpu"]) == {"id", "title", "status", "found", "why", "fix", "took_ms"}
    assert checks["recipe"]["status"] == "ok"
    assert checks["transformers"]["status"] == "ok"
    assert all(check["fix"] for check in report["checks"] if check["status"] == "fail")
    assert report["recipes"][0]["recipe"] == "mine"


def test_doctor_of_a_broken_recipe_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("version: 1\nmodel: {id: a/b}\nengnie: {}\n")
    assert main(["doctor", str(recipe)]) == 2
    assert "engnie" in capsys.readouterr().err
