"""What the doctor says of the native engine: its tools, and its library in every state."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plan_machines import H100, gpu_machine, machine

from deploykit.build import CPU, Build, Target, tools
from deploykit.build.check import Answer, Verdict
from deploykit.doctor import Finding, native
from deploykit.errors import ConfigError

Make = Callable[..., Any]
COMPILER = tools.compiler()
HERE = {"compiler": COMPILER.path if COMPILER else None}


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """A build that is located, whatever is in it."""
    made = Build(CPU, tmp_path, tmp_path / "_deploykit_native.so", tmp_path / "lib.so", "", "prebuilt")
    monkeypatch.setattr(native, "locate", lambda target: made)
    return made


def says(monkeypatch: pytest.MonkeyPatch, why: str | None, **answer: Any) -> None:
    monkeypatch.setattr(native, "judge", lambda *_, **__: Verdict(Answer(**answer), why))


def warns(finding: Finding, *words: str) -> None:
    assert finding.status == "warn"
    assert finding.why
    assert finding.fix
    for word in words:
        assert word in f"{finding.found} {finding.why} {finding.fix}"


def test_compilers_are_shown_with_their_versions(context: Make, tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    finding = native.compiler(context(machine=machine(nvcc=str(nvcc), **HERE)))
    assert finding.status == "ok"
    assert f"{HERE['compiler']} (" in finding.found
    assert f"{nvcc} (CUDA 13.0)" in finding.found


def test_a_missing_compiler_is_a_warning_with_the_command(context: Make, tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/os-release").write_text("ID=debian\n")
    finding = native.compiler(context(machine=machine(compiler=None)))
    warns(finding, "no C++ compiler", "pytorch engine")
    assert finding.fix == "apt install g++"


def test_build_tools(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = native.build_tools(context(machine=machine(**HERE)))
    assert finding.status == "ok"
    assert all(name in finding.found for name in ("CMake ", "Ninja ", "pybind11 "))
    monkeypatch.setattr(tools, "ninja", lambda: None)
    warns(native.build_tools(context(machine=machine(**HERE))), "no Ninja", "pip install ninja")


def test_a_library_that_loads_is_described(
    found: Build, context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, None, devices=("cpu",), isas=("avx512", "avx2", "scalar"))
    finding = native.cpu_library(context())
    assert finding.status == "ok"
    assert "avx512 is used (of avx512 avx2 scalar)" in finding.found
    assert "built for cpu" in finding.found


def test_a_library_that_does_not_load_shows_the_linkers_words(
    found: Build, context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "libdeploykit_engine.so: undefined symbol: _ZN9deploykit3fooEv"
    says(monkeypatch, words)
    finding = native.cpu_library(context())
    assert (finding.status, finding.why) == ("fail", words)
    assert str(found.module) in finding.found
    assert "deploykit build --force" in finding.fix


def test_a_library_that_is_not_there(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "locate", lambda target: None)
    monkeypatch.setattr(native.store, "stale", lambda target: None)
    here = context(machine=machine(**HERE))
    warns(native.cpu_library(here), "not built yet", "deploykit build")
    monkeypatch.setattr(native.store, "stale", lambda target: "the sources, the compiler")
    warns(native.cpu_library(here), "stale", "the sources, the compiler changed since")
    finding = native.cpu_library(context(machine=machine(compiler=None)))
    assert finding.status == "skip"  # the compiler's own check warns
    assert "no C++ compiler" in finding.found


def test_a_prebuilt_library_that_is_refused_fails(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: Target) -> Build:
        raise ConfigError(
            "the native library of DEPLOYKIT_NATIVE_DIR can't be used", why="it is old", fix="unset it"
        )

    monkeypatch.setattr(native, "locate", refuse)
    finding = native.cpu_library(context())
    assert (finding.status, finding.why, finding.fix) == ("fail", "it is old", "unset it")


def test_a_gpu_has_a_library_of_its_own(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.cuda_library(context()).status == "skip"
    with_gpu = context(machine=gpu_machine(H100, **HERE))
    monkeypatch.setattr(native, "locate", lambda target: None)
    monkeypatch.setattr(native, "build_problem", lambda *_, **__: "no nvcc: install NVIDIA's CUDA toolkit")
    assert native.cuda_library(with_gpu).found == "not built, and can't be: no nvcc"
    monkeypatch.setattr(native, "build_problem", lambda *_, **__: None)
    assert "models run on the GPU" in native.cpu_library(with_gpu).found
    monkeypatch.setattr(native.store, "stale", lambda target: None)
    assert native.cuda_library(with_gpu).fix == "deploykit build --cuda 90a"


# ---------------------------------------------------------------- real files that are broken


def compiled(folder: Path, body: str) -> Path:
    """A shared object by the module's name with this C code in it."""
    source, module = folder / "module.c", folder / "_deploykit_native.so"
    source.write_text(body)
    assert COMPILER is not None
    command = [COMPILER.path, "-x", "c", "-shared", "-fPIC", "-w", str(source), "-o", str(module)]
    subprocess.run(command, check=True, capture_output=True)
    return module


BROKEN = {
    "missing symbol": (
        "void *deploykit_is_missing(void); void *PyInit__deploykit_native(void) { return deploykit_is_missing(); }",
        "undefined symbol: deploykit_is_missing",
    ),
    "crash": ("void *PyInit__deploykit_native(void) { __builtin_trap(); }", "SIG"),
    "exit": ("void exit(int); void *PyInit__deploykit_native(void) { exit(7); }", "code 7"),
}


@pytest.mark.parametrize("kind", ["garbage", *BROKEN])
def test_a_file_that_breaks_is_judged_with_the_linkers_own_words(
    found: Build, context: Make, tmp_path: Path, kind: str
) -> None:
    if kind == "garbage":
        found.module.write_bytes(b"this is no library" * 100)
        words = "invalid ELF header"
    else:
        body, words = BROKEN[kind]
        compiled(tmp_path, body)
    for look in (native.cpu_library, native.cpu_self_test):
        finding = look(context())
        assert finding.status == "fail", finding
        assert words in finding.why
        assert "deploykit build --force" in finding.fix


def test_a_library_that_hangs_is_given_up(
    found: Build, context: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(
        tmp_path, "unsigned sleep(unsigned); void *PyInit__deploykit_native(void) { sleep(60); return 0; }"
    )
    monkeypatch.setattr(native, "_CHILD_LIMIT_S", 0.5)
    monkeypatch.setattr(native, "_SELFTEST_LIMIT_S", 1.5)
    assert "did not end within 0.5 s" in native.cpu_library(context()).why
    assert "no answer within 0.5 s" in native.cpu_self_test(context()).why


def test_the_self_test_of_the_real_library(context: Make) -> None:
    finding = native.cpu_self_test(context())
    if finding.found == "the library is not built":
        pytest.skip("the native library is not built")
    assert finding.status == "ok", finding
    assert "64 x 64 product in f32" in finding.found
    assert float(finding.found.rpartition(" ")[2]) < 1e-4


@pytest.mark.parametrize(("difference", "status"), [("1e-07", "ok"), ("0.5", "fail"), ("nan", "fail")])
def test_wrong_numbers_are_a_failure(
    found: Build, context: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: str, status: str
) -> None:
    script = tmp_path / "child.py"
    good = status == "ok"
    said = {"difference": difference, "good": good, "dtype": "f32"}
    script.write_text(f"import json; print(json.dumps({said!r}))")
    monkeypatch.setattr(native, "_SELFTEST", script)
    finding = native.cpu_self_test(context())
    assert finding.status == status
    assert ("wrong numbers" in finding.why) is not good


def test_every_gpu_is_tested(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.cuda_self_test(context()).status == "skip"
    told = {0: Finding("ok", "fine"), 1: Finding("fail", "it crashed", "no kernel image", "deploykit build")}
    monkeypatch.setattr(native, "_self_test", lambda target, device, index: told[index])
    two = gpu_machine(H100, msgspec.structs.replace(H100, index=1))
    finding = native.cuda_self_test(context(machine=two))
    assert (finding.status, finding.why) == ("fail", "no kernel image")
    assert finding.found == "GPU 0: fine; GPU 1: it crashed"
