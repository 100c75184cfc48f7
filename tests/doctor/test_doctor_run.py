"""The examination as a whole, and the command around it."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_machines import H100, gpu_machine, machine

from deploykit.cli._doctor_output import print_report
from deploykit.cli.app import main
from deploykit.doctor import CATEGORIES, CHECKS, CheckSpec, Context, Finding, child, examine
from deploykit.doctor.bundle import render
from deploykit.doctor.check import Once, run_check, run_checks
from deploykit.doctor.recipes import RecipeRow
from deploykit.doctor.run import RECIPE_LIMIT_S, _verdict
from deploykit.hardware.nvml import GpuStates

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("DEPLOYKIT_OFFLINE", "1")  # whatever the machine's network is like
    monkeypatch.chdir(tmp_path)


def test_a_check_that_crashes_becomes_a_finding(context: Make) -> None:
    def crash(_: Context) -> Finding:
        raise KeyError("surprise")

    done = run_check(CheckSpec("x", "X", crash), context())
    assert done.status == "warn"
    assert "surprise" in done.why


def test_even_a_check_that_wants_to_end_the_process(context: Make) -> None:
    def leave(_: Context) -> Finding:
        raise SystemExit(3)

    done = run_check(CheckSpec("x", "X", leave), context())
    assert done.status == "warn"
    assert "SystemExit" in done.why


def test_a_check_that_hangs_is_left_behind(context: Make) -> None:
    released = threading.Event()

    def hang(_: Context) -> Finding:
        released.wait(60)
        return Finding("ok", "late")

    specs = [CheckSpec("a", "A", hang, limit_s=0.05), CheckSpec("b", "B", lambda _: Finding("ok", "fine"))]
    hung, fine = run_checks(specs, context())
    released.set()
    assert hung.status == "warn"
    assert "0.05 s" in hung.why
    assert fine.found == "fine"


def test_a_check_whose_child_sleeps_is_given_up_with_all_that_it_started(
    context: Make, tmp_path: Path
) -> None:
    """The child starts another, which would hold its output open."""
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{p.pid}}')\n"
        "time.sleep(60)\n"
    )

    def look(_: Context) -> Finding:
        answer = child.ask([sys.executable, "-c", code], limit_s=1.0)
        return Finding("fail", answer.problem or "")

    done = run_check(CheckSpec("x", "X", look, limit_s=10), context())
    assert done.found == "no answer within 1 s"
    for pid in map(int, pids.read_text().split()):
        for _ in range(200):
            if ended(pid):
                break
            time.sleep(0.02)
        assert ended(pid)


def ended(pid: int) -> bool:
    """Gone, or a zombie that waits for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("print('fine')", None),
        ("import sys; sys.exit('what the linker said')", "what the linker said"),
        ("import os; os._exit(4)", "code 4"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL (an instruction"),
    ],
)
def test_children_say_how_they_ended(code: str, problem: str | None) -> None:
    answer = child.ask([sys.executable, "-c", code], limit_s=20)
    assert (problem is None) == (answer.problem is None)
    assert (problem or "") in (answer.problem or "")
    assert "can't be started" in (child.ask(["/no/such/program"], limit_s=1).problem or "")


def test_slow_checks_run_beside_the_rest(context: Make) -> None:
    """Two slow ones, the quick one and the work in between are there at once, and come back in their order."""
    meeting = threading.Barrier(3, timeout=10)

    def meet(_: Context) -> Finding:
        meeting.wait()
        return Finding("ok", "met")

    specs = [
        CheckSpec("a", "A", meet, limit_s=20, slow=True),
        CheckSpec("b", "B", lambda _: Finding("ok", "quick")),
        CheckSpec("c", "C", meet, limit_s=20, slow=True),
    ]
    done = run_checks(specs, context(), meanwhile=meeting.wait)
    assert [check.id for check in done] == ["a", "b", "c"]
    assert [check.found for check in done] == ["met", "quick", "met"]


def test_what_several_checks_ask_is_asked_once() -> None:
    asked: list[int] = []
    once = Once(lambda: asked.append(1) or len(asked))
    threads = [threading.Thread(target=once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (once(), asked) == (1, [1])


def test_a_driver_that_hangs_costs_each_gpu_check_its_own_time_alone(context: Make) -> None:
    released = threading.Event()

    def hang() -> GpuStates:
        released.wait(60)
        return GpuStates()

    here = context(gpus=Once(hang))
    gpu_checks = [replace(spec, limit_s=0.1) for spec in CHECKS if spec.id.startswith("gpu-")]
    done = run_checks(gpu_checks, here)
    released.set()
    assert len(done) == 6
    assert {check.status for check in done} == {"warn"}


def test_the_state_of_the_gpus_is_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_nvml import Card, FakeNVML, to_switch

    monkeypatch.setitem(sys.modules, "pynvml", FakeNVML(Card(links=to_switch(18)), Card(links=to_switch(18))))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    report = examine(specs=[], machine=gpu_machine(H100), recipes=[])
    assert [state.temperature for state in report.gpus.gpus] == [31, 31]
    assert [link.label for link in report.gpus.links] == ["NV18"]
    assert '"temperature": 31' in render(report, environ={})
    assert examine(specs=[], machine=machine(), recipes=[]).gpus == GpuStates()


def test_checks_have_distinct_ids_and_a_limit() -> None:
    ids = [spec.id for spec in CHECKS]
    assert len(set(ids)) == len(ids)
    assert all(0 < spec.limit_s <= (60 if spec.slow else 5) for spec in CHECKS)
    assert {spec.category for spec in CHECKS} == set(CATEGORIES)


def test_the_page_names_every_check_with_its_limits() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "doctor.md").read_text()
    shown: dict[str, float] = {}
    for line in page.partition("## The checks")[2].partition("## The recipes")[0].splitlines():
        cells = line.split("|")
        if len(cells) == 5 and "`" in cells[1]:
            ids, limits = re.findall(r"`([^`]+)`", cells[1]), re.findall(r"([\d.]+) s", cells[3])
            shown |= zip(ids, map(float, limits if len(limits) > 1 else limits * len(ids)), strict=True)
    assert shown.pop("recipe") == RECIPE_LIMIT_S
    assert shown == {spec.id: spec.limit_s for spec in CHECKS}


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


WORDS = "a reason of many words " * 4


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")


def test_on_a_terminal_a_group_that_is_well_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, 60)
    specs = [
        CheckSpec("os", "Operating system", lambda _: Finding("ok", "Debian"), category="System"),
        CheckSpec("x", "Unseen", lambda _: Finding("ok", "unseen"), category="System"),
        CheckSpec("y", "Port", lambda _: Finding("warn", "taken", WORDS, "stop it"), category="Serving"),
        CheckSpec("z", "Nothing", lambda _: Finding("skip", "no GPU"), category="GPU"),
    ]
    report = examine(specs=specs, machine=machine(), recipes=[])
    print_report(report, verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[✔] System           Debian"
    assert lines[1] == "[!] Serving          1 of 1 to look at: Port"
    assert lines[2] == "    ! Port  taken"
    assert lines[3].startswith("            why: a reason of many words")
    assert lines[4].startswith("                 ")  # folded under its own beginning
    assert all(len(line) <= 60 for line in lines[:8])
    assert "[-] GPU              no GPU" in lines
    assert not any("unseen" in line for line in lines)
    print_report(report, verbose=True)
    assert "unseen" in capsys.readouterr().out


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
    fields = {"id", "category", "title", "status", "found", "why", "fix", "details", "took_ms"}
    assert set(checks["cpu"]) == fields
    assert checks["recipe"]["status"] == "ok"
    assert checks["transformers"]["status"] == "ok"
    assert all(check["fix"] for check in report["checks"] if check["status"] == "fail")
    assert report["recipes"][0]["recipe"] == "mine"


def test_a_path_where_no_model_is_sends_nobody_to_a_hub() -> None:
    row = RecipeRow(recipe="r", path="r.yaml", fits="unknown", why="nothing describes it")
    assert "its hub" in _verdict(row, "r.yaml").fix
    found = _verdict(row, "r.yaml", "/home/bob/model")
    assert (found.status, found.fix) == ("fail", "correct model.path")
    assert "/home/bob/model" in found.why


def test_doctor_of_a_broken_recipe_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("version: 1\nmodel: {id: a/b}\nengnie: {}\n")
    assert main(["doctor", str(recipe)]) == 2
    assert "engnie" in capsys.readouterr().err
