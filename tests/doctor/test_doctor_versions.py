"""Driver, CUDA, torch, toolkit and libstdc++: what fits together, and the command where it doesn't."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_machines import GIB, gpu, gpu_machine, machine

from deploykit.build import CPU, Build, tools
from deploykit.doctor import versions
from deploykit.doctor.check import Finding
from deploykit.hardware.elf import ElfError, needed_versions, offered_versions
from deploykit.hardware.machine import GPU

Make = Callable[..., Any]
COMPILER = tools.compiler()


def l4(**changes: Any) -> GPU:
    return gpu(**({"name": "NVIDIA L4", "capability": (8, 9), "total": 24 * GIB} | changes))


def sick(finding: Finding, status: str, *words: str) -> None:
    assert finding.status == status, finding
    assert finding.why
    for word in words:
        assert word in f"{finding.found} {finding.why} {finding.fix}", finding


@pytest.fixture
def nvcc(tmp_path: Path) -> Callable[[str], str]:
    def make(release: str) -> str:
        path = tmp_path / f"nvcc-{release}"
        path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
        path.chmod(0o755)
        return str(path)

    return make


# ---------------------------------------------------------------- driver, torch, toolkit


def test_what_agrees(context: Make, nvcc: Callable[[str], str]) -> None:
    good = gpu_machine(l4(), nvcc=nvcc("13.0"))
    finding = versions.triangle(context(machine=good))
    assert finding.status == "ok", finding
    assert finding.found.startswith(
        "driver 580.95.05 runs CUDA up to 13.0; torch 2.13.0+cu130 (CUDA 13.0); nvcc 13.0"
    )
    assert versions.triangle(context()).status == "ok"  # without a GPU nothing has to agree


@pytest.mark.parametrize(
    ("cuda_driver", "fix"),
    [
        ("13.0", "whl/cu130"),
        ("12.9", "whl/cu128"),
        ("12.6", "whl/cu126"),
        ("12.2", "update NVIDIA's driver"),
        (None, "whl/cu130"),
    ],
)
def test_a_cpu_build_of_torch_beside_a_gpu_fails_with_the_command_that_repairs_it(
    context: Make, cuda_driver: str | None, fix: str
) -> None:
    here = context(machine=machine(gpus=(l4(cuda_driver=cuda_driver),), gpu_error=None))
    finding = versions.triangle(here)
    sick(finding, "fail", "built for the CPU alone", fix)
    assert "torch==2.13.0 " in finding.fix or "driver" in finding.fix


def test_a_driver_that_is_too_old(context: Make, nvcc: Callable[[str], str]) -> None:
    old = gpu_machine(l4(cuda_driver="12.8"))
    sick(versions.triangle(context(machine=old)), "fail", "CUDA 12.8 at most", "whl/cu128")
    newer = gpu_machine(l4(cuda_driver="12.8"), torch="2.13.0+cu128", torch_cuda="12.8", nvcc=nvcc("13.0"))
    sick(
        versions.triangle(context(machine=newer)),
        "warn",
        "what nvcc 13.0 compiles",
        "CUDA 12.8 toolkit",
        "CUDA_HOME",
    )


def test_a_gpu_that_is_too_old(context: Make) -> None:
    volta = l4(name="Tesla V100", capability=(7, 0))
    sick(versions.triangle(context(machine=gpu_machine(volta))), "warn", "7.0", "CPU")
    mixed = gpu_machine(volta, l4(index=1))
    sick(versions.triangle(context(machine=mixed)), "warn", "the other GPUs are used")


# ---------------------------------------------------------------- no kernel image

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("archs", "capability", "verdict"),
    [
        (WHEEL, (9, 0), "yes"),
        (WHEEL, (8, 9), "yes"),  # code for 8.6 runs on 8.9
        (WHEEL, (8, 0), "yes"),
        (WHEEL, (7, 0), "no"),
        (WHEEL, (11, 0), "no"),
        (WHEEL, (10, 3), "yes"),
        (["sm_86"], (8, 0), "no"),  # and not the other way round
        (["sm_90a"], (9, 0), "yes"),
        (["sm_90a"], (10, 0), "no"),
        (["sm_100a"], (10, 3), "no"),
        (["sm_100f"], (10, 3), "yes"),
        (["sm_80", "compute_80"], (9, 0), "ptx"),
        (["compute_90"], (8, 0), "no"),
        (["compute_90a"], (10, 0), "no"),
        (["gfx942"], (9, 0), "no"),
        ([], (9, 0), "no"),
    ],
)
def test_which_code_runs_on_which_gpu(archs: list[str], capability: tuple[int, int], verdict: str) -> None:
    assert versions.runs_on(archs, capability) == verdict


@pytest.fixture
def torch_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a program in the place of the child that asks torch."""

    def say(code: str = "", **answer: Any) -> None:
        script = tmp_path / "torch_child.py"
        said = {"archs": WHEEL, "problems": [], "nccl": "2.28.9", "count": 1} | answer
        script.write_text(code or f"import json; print(json.dumps({said!r}))")
        monkeypatch.setattr(versions, "_TORCH_CHILD", script)

    return say


def test_torch_is_asked_in_a_process_of_its_own(
    context: Make, torch_says: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert versions.kernels(context()).status == "skip"
    assert versions.kernels(context(machine=machine(gpus=(l4(),), gpu_error=None))).status == "skip"
    here = context(machine=gpu_machine(l4()))
    torch_says()
    finding = versions.kernels(here)
    assert finding.status == "ok"
    assert "sm_86" in finding.found
    assert "NCCL 2.28.9; a kernel ran on 1 GPU" in finding.found
    torch_says(archs=["sm_90"])
    sick(
        versions.kernels(here),
        "fail",
        "sm_89",
        "no kernel image is available",
        "--force-reinstall torch==2.13.0",
    )
    torch_says(problems=["GPU 0: CUDA error: uncorrectable ECC error encountered"])
    sick(versions.kernels(here), "fail", "uncorrectable ECC error", "nvidia-smi")
    torch_says(count=0)
    sick(versions.kernels(here), "fail", "CUDA doesn't", "--gpus all")
    torch_says(archs=["compute_80"])
    assert "PTX" in versions.kernels(here).found
    torch_says(code="import sys; sys.exit('ImportError: libcudart.so.13: cannot open shared object file')")
    sick(versions.kernels(here), "fail", "libcudart.so.13", "--force-reinstall")
    torch_says(code="import os; os.abort()")
    sick(versions.kernels(here), "fail", "SIGABRT")
    torch_says(code="import time; time.sleep(60)")
    monkeypatch.setattr(versions, "TORCH_LIMIT_S", 1.3)
    sick(versions.kernels(here), "fail", "no answer within 0.3 s")


def test_the_program_that_asks_torch(tmp_path: Path) -> None:
    """Run with the torch that is installed here."""
    done = subprocess.run([sys.executable, "-P", str(versions._TORCH_CHILD)], capture_output=True, check=True)
    import msgspec

    said = msgspec.json.decode(done.stdout, type=versions.TorchAnswer)
    assert (said.count > 0) == bool(said.archs) or said.count == 0
    assert said.problems == []


# ---------------------------------------------------------------- libstdc++


def library(folder: Path, name: str, versions_script: str, body: str, *others: Path) -> Path:
    """A real shared object with its symbols at the versions that the script gives."""
    folder.mkdir(parents=True, exist_ok=True)
    source, script, made = folder / "it.c", folder / "it.map", folder / name
    source.write_text(body)
    script.write_text(versions_script)
    assert COMPILER is not None
    command = [
        COMPILER.path, "-x", "c", "-shared", "-fPIC", "-w", str(source), "-x", "none", *map(str, others),
        f"-Wl,--version-script={script}", f"-Wl,-soname,{name}", "-o", str(made),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return made


@pytest.fixture
def stdcxx(tmp_path: Path) -> dict[str, Path]:
    """A new libstdc++, an old one, and a module that was linked against the new one."""
    newer = "GLIBCXX_3.4.9 { global: old; };\nGLIBCXX_3.4.30 { global: fresh; } GLIBCXX_3.4.9;"
    body = "void old(void) {} void fresh(void) {}"
    new = library(tmp_path / "new", "libstdc++.so.6", newer, body)
    old = library(tmp_path / "old", "libstdc++.so.6", "GLIBCXX_3.4.9 { global: old; };", "void old(void) {}")
    uses = "void old(void); void fresh(void); void use(void) { old(); fresh(); }"
    module = library(tmp_path / "m", "_deploykit_native.so", "{ global: use; };", uses, new)
    return {"new": new, "old": old, "module": module}


def test_versions_of_real_libraries(stdcxx: dict[str, Path]) -> None:
    assert needed_versions(stdcxx["module"])["libstdc++.so.6"] == ("GLIBCXX_3.4.30", "GLIBCXX_3.4.9") or set(
        needed_versions(stdcxx["module"])["libstdc++.so.6"]
    ) == {"GLIBCXX_3.4.9", "GLIBCXX_3.4.30"}
    assert offered_versions(stdcxx["new"]) == {"GLIBCXX_3.4.9", "GLIBCXX_3.4.30"}
    assert offered_versions(stdcxx["old"]) == {"GLIBCXX_3.4.9"}


def test_what_the_library_asks_of_libstdcxx(
    context: Make, stdcxx: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Build(CPU, stdcxx["module"].parent, stdcxx["module"], stdcxx["module"], "", "prebuilt")
    monkeypatch.setattr(versions, "locate", lambda target: build)
    monkeypatch.setattr(versions, "find_libstdcxx", lambda: stdcxx["new"])
    finding = versions.libstdcxx(context())
    assert finding.status == "ok", finding
    assert "has GLIBCXX_3.4.30, the native library asks for GLIBCXX_3.4.30" in finding.found  # not 3.4.9
    monkeypatch.setattr(versions, "find_libstdcxx", lambda: stdcxx["old"])
    sick(
        versions.libstdcxx(context()), "fail", "version `GLIBCXX_3.4.30' not found", "deploykit build --force"
    )
    monkeypatch.setattr(versions, "locate", lambda target: None)
    assert versions.libstdcxx(context()).status == "skip"


def test_the_libstdcxx_of_this_machine() -> None:
    found = versions.find_libstdcxx()
    if found is None:
        pytest.skip("no libstdc++ here")
    assert any(v.startswith("GLIBCXX_3.4") for v in offered_versions(found))


ELF = b"\x7fELF"


@pytest.mark.parametrize(
    "content", [b"", b"garbage", ELF + b"\1\1", ELF + b"\2\1", ELF + b"\2\1" + b"\xff" * 200]
)
def test_files_that_are_no_libraries(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.so"
    file.write_bytes(content)
    with pytest.raises(ElfError):
        needed_versions(file)
    with pytest.raises(ElfError):
        offered_versions(tmp_path / "absent")


def test_every_cut_of_a_real_library_is_an_error_or_an_answer(
    stdcxx: dict[str, Path], tmp_path: Path
) -> None:
    whole = stdcxx["module"].read_bytes()
    for i in range(0, len(whole), 997):
        file = tmp_path / f"cut-{i}.so"
        file.write_bytes(whole[:i] + b"\xff" * 64 + whole[i + 64 :])
        for read in (needed_versions, offered_versions):
            try:
                read(file)
            except ElfError:
                continue
