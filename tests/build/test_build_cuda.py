"""The CUDA toolkit: architectures that it compiles for, and where cuBLAS's headers are."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploykit.build import Target, cuda, cuda_target, make, sources
from deploykit.engine.native.cuda import GENERATIONS
from deploykit.errors import ConfigError

_NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {release}, V{release}.88"; echo "Build cuda_{release}.r1";;
--list-gpu-arch) for arch in {archs}; do echo "compute_$arch"; done;;
--dryrun) echo "#$ TOP={top}" >&2;;
esac
"""


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a CUDA 13.0, whose nvcc on PATH is a script that starts the real one."""
    top = tmp_path / "cuda-13.0"
    top.mkdir()
    script = tmp_path / "elsewhere" / "bin" / "nvcc"
    script.parent.mkdir(parents=True)
    script.write_text(_NVCC.format(release="13.0", archs="75 80 86 89 90 100 120", top=top))
    script.chmod(0o755)
    monkeypatch.setattr(cuda, "find_nvcc", lambda: str(script))
    monkeypatch.setattr(cuda, "_packaged", lambda: [tmp_path / "site" / "nvidia" / "cu13"])
    cuda._say.cache_clear()
    return top


@pytest.mark.parametrize("arch", ["75", "80", "90", "90a", "100f", "120a"])
def test_known_architectures_are_taken(arch: str, toolkit: Path) -> None:
    cuda.check_arch(arch)


def test_architectures_that_a_toolkit_lost_or_never_had_are_refused(toolkit: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)sm_70.*CUDA 13\.0 compiles for 75.*removed.*CUDA 12\.9"):
        cuda.check_arch("70")
    with pytest.raises(ConfigError, match=r"(?s)sm_130.*newer CUDA toolkit"):
        cuda.check_arch("130")
    for nonsense in ("", "hopper", "9.0", "90b", "sm_90", "90 -o x"):
        with pytest.raises(ConfigError, match="is no CUDA architecture"):
            cuda.check_arch(nonsense)


def test_cublas_is_the_toolkits_or_the_packages(toolkit: Path, tmp_path: Path) -> None:
    assert cuda.cublas_root() is None
    assert cuda.cublas_package() == "nvidia-cublas"
    package = tmp_path / "site" / "nvidia" / "cu13"
    for root in (package, toolkit):  # the toolkit's comes first, once it has it
        (root / "include").mkdir(parents=True)
        (root / "include" / "cublas_v2.h").touch()
        assert cuda.cublas_root() == root


def test_headers_are_only_needed_where_they_are_included(toolkit: Path, tmp_path: Path) -> None:
    source = tmp_path / "native"
    (source / "cuda" / "kernels").mkdir(parents=True)
    assert not cuda.needs_cublas(source)
    (source / "cuda" / "kernels" / "linear.cuh").write_text("#include <cublasLt.h>\n")
    assert cuda.needs_cublas(source)


def test_a_target_becomes_cmakes_options(toolkit: Path, tree: Path) -> None:
    assert make.options(Target())["DEPLOYKIT_CUDA"] == "OFF"
    options = make.options(cuda_target((9, 0)))
    assert options["DEPLOYKIT_CUDA"] == "ON"
    assert options["CMAKE_CUDA_ARCHITECTURES"] == "90a"
    assert options["CMAKE_CUDA_COMPILER"].endswith("elsewhere/bin/nvcc")


def test_gpus_have_targets() -> None:
    assert [cuda_target(cc).arch for cc in GENERATIONS] == [
        *("75", "80", "86", "87", "89"),
        *("90a", "100a", "103a", "110a", "120a", "121a"),
    ]
    assert cuda_target((8, 0)).name == "cuda-80"
    with pytest.raises(ValueError, match="architecture"):
        Target("cuda")


def test_another_toolkit_is_another_build(toolkit: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploykit.build.key import identify

    source = sources.source_dir()
    before = identify(source, cuda_target((9, 0)))
    cpu = identify(source, Target())
    monkeypatch.setattr(cuda, "identity", lambda: "/opt/cuda-13.1/bin/nvcc Build cuda_13.1")
    assert identify(source, cuda_target((9, 0))).key != before.key
    assert identify(source, Target()).key == cpu.key
