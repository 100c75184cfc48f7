"""The stage "native": the library is there before the engine starts, and what is done for it is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploykit import build
from deploykit.build import CPU, Build, Progress, Target
from deploykit.deployment.native import ensure_native, target_of
from deploykit.deployment.prepare import prepare
from deploykit.deployment.stage import Stage
from deploykit.errors import DeploykitError
from deploykit.hardware import GPU, probe

Ensure = Callable[[Target, build.Report], Build]
MADE = Build(CPU, Path("/x"), Path("/x/m.so"), Path("/x/l.so"), "key", "built")


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[Stage]:
    monkeypatch.setattr(build, "locate", lambda target: None)
    return []


def ensures(monkeypatch: pytest.MonkeyPatch, *steps: Progress) -> None:
    def ensure(target: Target, report: build.Report) -> Build:
        for step in steps:
            report(step)
        return MADE

    monkeypatch.setattr(build, "ensure", ensure)


def test_compiling_is_a_stage_with_a_bar(stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = Progress("compile", "core/rows.cpp", 12, 40)
    ensures(monkeypatch, Progress("configure", "configuring"), compile_)
    assert ensure_native(CPU, stages.append) is MADE
    assert [(s.state, s.detail) for s in stages] == [
        ("start", "not built yet: compiling it, once"),
        ("start", ""),
        ("progress", "configuring"),
        ("progress", "[12/40] core/rows.cpp"),
        ("done", "cpu, built now"),
    ]
    assert stages[3].fraction == pytest.approx(0.3)
    assert {s.name for s in stages} == {"native"}


def test_what_is_there_is_only_named(stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "locate", lambda target: MADE)
    ensures(monkeypatch)
    ensure_native(CPU, stages.append)
    assert [(s.state, s.detail) for s in stages] == [("start", ""), ("done", "cpu, built before")]


def test_waiting_for_another_build_is_told(stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    ensures(monkeypatch, Progress("wait", "process 7 builds the same; waiting for it"))
    ensure_native(CPU, stages.append)
    assert "process 7 builds the same; waiting for it" in [s.detail for s in stages if s.state == "start"]


def test_a_failure_ends_the_start(stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    def ensure(target: Target, report: build.Report) -> Build:
        raise DeploykitError("the native library doesn't compile")

    monkeypatch.setattr(build, "ensure", ensure)
    with pytest.raises(DeploykitError, match="doesn't compile"):
        ensure_native(CPU, stages.append)
    assert stages[-1].state == "failed"


def test_prepare_has_the_library_before_it_ends(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploykit.plan import make_plan

    def native(*args: Any, **kwargs: Any) -> Any:
        return msgspec.structs.replace(make_plan(*args, **kwargs), engine="native")

    asked = []
    monkeypatch.setattr("deploykit.plan.make_plan", native)
    monkeypatch.setattr(build, "ensure", lambda target, report: asked.append(target) or MADE)
    stages: list[Stage] = []
    prepare(str(checkpoint), report=stages.append)
    assert asked == [CPU]
    assert (stages[-1].name, stages[-1].state) == ("native", "done")


def test_the_target_is_the_planned_device(checkpoint: Path) -> None:
    prepared = prepare(str(checkpoint))
    machine = msgspec.structs.replace(
        probe(),
        gpus=tuple(
            GPU(index=i, name="x", compute_capability=cc, total_bytes=1, free_bytes=1)
            for i, cc in enumerate([(8, 0), (9, 0)])
        ),
    )
    assert target_of(prepared.plan, machine) == CPU
    on_gpu = msgspec.structs.replace(prepared.plan, device="cuda", devices=(1,))
    assert target_of(on_gpu, machine) == Target("cuda", "90a")
