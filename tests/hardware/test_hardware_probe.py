"""The whole probe, and the versions it reads without importing anything heavy."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit.hardware import probe, toolchain


def test_this_machine_is_described() -> None:
    machine = probe(disk=Path("/does/not/exist/yet"))
    assert machine.cpu.cores >= 1
    assert 0 < machine.memory_available <= machine.memory_total
    assert machine.disk_free > 0
    assert machine.torch == importlib.metadata.version("torch")
    assert machine.gpus or machine.gpu_error


def test_the_probe_imports_neither_torch_nor_transformers() -> None:
    code = "import sys; from deploykit.hardware import probe; probe()\n"
    code += "print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_broken_probe_leaves_the_others_standing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("odd machine")

    module = sys.modules["deploykit.hardware.probe"]
    for name in ("probe_cpu", "probe_memory", "probe_disk", "probe_gpus", "package_version", "torch_cuda"):
        monkeypatch.setattr(module, name, broken)
    machine = probe()
    assert (machine.memory_total, machine.disk_free, machine.torch, machine.gpus) == (0, 0, None, ())
    assert machine.gpu_error
    assert machine.python


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", None),
        ("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "13.0"),
        ("cuda = '12.6'\n", "12.6"),
        ("", None),
    ],
)
def test_torch_cuda_is_read_from_its_version_file(text: str, cuda: str | None) -> None:
    assert toolchain.parse_torch_cuda(text) == cuda


def test_nvcc_is_looked_for_in_cuda_home_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert toolchain.find_nvcc() == str(nvcc)


def test_a_package_that_is_not_there_is_none() -> None:
    assert toolchain.package_version("surely-not-installed") is None
