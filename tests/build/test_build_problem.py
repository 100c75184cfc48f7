"""Tools that are missing, too old or broken, and what a person is told to install."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from deploykit.build import Target, problem, sources, tools
from deploykit.hardware import CPU, Machine


def machine(**changes: Any) -> Machine:
    fields: dict[str, Any] = {
        "system": "Linux",
        "arch": "x86_64",
        "cpu": CPU(model="x", cores=2),
        "memory_total": 1 << 34,
        "memory_available": 1 << 33,
        "disk_free": 1 << 36,
        "compiler": tools.compiler() and tools.compiler().path,  # type: ignore[union-attr]
    }
    return Machine(**(fields | changes))


def program(path: Path, says: str, code: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def system(root: Path, os_release: str) -> Path:
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text(os_release)
    return root


def test_this_machine_can_build() -> None:
    assert problem(machine()) is None


@pytest.mark.parametrize(
    ("os_release", "command"),
    [
        ('ID=debian\nNAME="Debian GNU/Linux"\n', "apt install g++"),
        ("ID=ubuntu\nID_LIKE=debian\n", "apt install g++"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "apt install g++"),
        ("ID=fedora\n", "dnf install gcc-c++"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf install gcc-c++"),
        ("ID=arch\n", "pacman -S gcc"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "zypper install gcc-c++"),
    ],
)
def test_without_a_compiler_the_distributions_own_command_is_named(
    os_release: str, command: str, tmp_path: Path
) -> None:
    said = problem(machine(compiler=None), root=system(tmp_path, os_release))
    assert said == f"no C++ compiler: {command}"


def test_an_unknown_system_is_told_every_way(tmp_path: Path) -> None:
    said = problem(machine(compiler=None), root=tmp_path) or ""
    for part in (
        "apt install g++ (Debian",
        "dnf install gcc-c++ (Fedora",
        "pacman -S gcc (Arch",
        "xcode-select",
    ):
        assert part in said
    assert problem(machine(compiler=None, system="Darwin")) == "no C++ compiler: xcode-select --install"


@pytest.mark.parametrize(
    ("says", "kind", "numbers"),
    [
        ("c++ (Debian 12.2.0-14+deb12u1) 12.2.0", "GCC", (12, 2, 0)),
        ("g++ (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)", "GCC", (14, 2, 1)),
        ("x86_64-linux-gnu-g++-9 (Ubuntu 9.4.0-1ubuntu1~20.04.2) 9.4.0", "GCC", (9, 4, 0)),
        ("Ubuntu clang version 14.0.0-1ubuntu1.1", "Clang", (14, 0, 0)),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)", "Apple Clang", (15, 0, 0)),
        ("icpx 2024.1", None, (2024, 1)),
    ],
)
def test_compilers_are_known_by_what_they_say(says: str, kind: str | None, numbers: tuple[int, ...]) -> None:
    tool = tools.Tool("/usr/bin/c++", says)
    assert (tools.compiler_kind(tool), tool.numbers) == (kind, numbers)


def test_an_old_or_broken_compiler_is_named(tmp_path: Path) -> None:
    old = program(tmp_path / "old", "g++ (Ubuntu 9.4.0-1ubuntu1) 9.4.0")
    assert "GCC 9.4.0 is too old, 11 is needed" in (problem(machine(compiler=old)) or "")
    broken = program(tmp_path / "broken", "xcode-select: note: no tools", code=1)
    assert f"{broken} doesn't work" in (
        problem(machine(compiler=broken), root=system(tmp_path, "ID=arch")) or ""
    )


def test_a_launcher_in_cxx_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "ccache g++")
    assert (problem(machine()) or "").endswith("set CXX=g++, CMAKE_CXX_COMPILER_LAUNCHER=ccache")


def test_an_old_cmake_on_the_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine()
    monkeypatch.setattr(tools, "_package_folder", lambda name: None)
    monkeypatch.setattr(tools, "package_version", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert problem(here) == (
        "no CMake 3.24 or newer and Ninja 1.10 or newer and pybind11: pip install cmake ninja pybind11"
    )
    program(tmp_path / "cmake", "cmake version 3.22.1")
    program(tmp_path / "ninja", "1.11.1")
    assert "CMake 3.24" in (problem(here) or "")
    assert "Ninja" not in (problem(here) or "")
    program(tmp_path / "cmake", "cmake version 3.25.1-dirty")
    assert problem(here) == "no pybind11: pip install pybind11"


def test_the_python_packages_come_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "cmake", "cmake version 99.0")
    program(tmp_path / "ninja", "99.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    for tool in (tools.cmake(), tools.ninja()):
        assert tool is not None
        assert tool.path.startswith(sys.prefix)


def test_missing_headers_of_python_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "python_header", lambda: tmp_path / "Python.h")
    said = problem(machine(), root=system(tmp_path, "ID=debian"))
    assert said == f"Python's headers are missing ({tmp_path}/Python.h): apt install python3-dev"


def test_cuda_needs_kernels_and_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target("cuda", "90a")
    monkeypatch.setattr(sources, "find_sources", lambda: tmp_path)
    assert "no CUDA kernels" in (problem(machine(), target) or "")
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "CMakeLists.txt").touch()
    monkeypatch.setattr("deploykit.build.cuda.nvcc", lambda: None)
    assert "no nvcc" in (problem(machine(), target) or "")
    assert problem(machine()) is None  # the CPU alone needs none
