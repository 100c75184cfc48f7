"""What an installed deploykit has: the sources, where they are looked for, and nothing that was compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from deploykit.build import CPU, sources
from deploykit.build.key import identify

ROOT = Path(__file__).parent.parent.parent
_BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, for building leaves things behind."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, copy)
    for name in ("deploykit", "native", "recipes", "schemas"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return copy


def package(checkout: Path, kind: str) -> Path:
    """The wheel or the sdist, made with no compiler to be found."""
    env = {**os.environ, "PATH": "", "CXX": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, f"build_{kind}", str(checkout / "made")],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return checkout / "made" / done.stdout.split()[-1]


def below(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    (checkout / "made").mkdir(exist_ok=True)
    return package(checkout, "wheel")


def test_a_wheel_carries_the_sources_of_the_library_and_its_room(wheel: Path, checkout: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    native = checkout / "native"
    assert {f"deploykit/_native_src/{name}" for name in sources.files(native, ["cuda"])} <= names
    assert "deploykit/build/make.py" in names
    for folder, inside in (("recipes", "_recipes"), ("schemas", "_schemas")):
        assert {f"deploykit/{inside}/{name}" for name in below(checkout / folder)} <= names
    assert not [name for name in names if name.endswith((".so", ".o"))]
    assert not [
        name for name in names if name.startswith(("deploykit/_native_src/tests", "native/", "tests/"))
    ]
    assert wheel.name.endswith("-py3-none-any.whl")


def test_an_sdist_carries_everything_a_wheel_is_made_of(checkout: Path, wheel: Path) -> None:
    with tarfile.open(package(checkout, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"native/{name}" for name in sources.files(checkout / "native", sources.OPTIONAL)} <= names
    assert {"pyproject.toml", "deploykit/build/make.py"} <= names
    for folder in ("recipes", "schemas"):
        assert {f"{folder}/{name}" for name in below(checkout / folder)} <= names


def test_an_editable_install_copies_nothing(checkout: Path, wheel: Path) -> None:
    names = zipfile.ZipFile(package(checkout, "editable")).namelist()
    assert not [name for name in names if "_native_src" in name or "_recipes" in name or "_schemas" in name]


def test_an_installation_means_the_same_build_as_the_checkout(
    wheel: Path, checkout: Path, tmp_path: Path
) -> None:
    """So that whatever was built for one serves the other."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")  # what deploykit needs
    install = [
        "--python",
        str(python),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        str(wheel),
    ]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    code = (
        "import deploykit; from deploykit.build import CPU, locate, sources; from deploykit.build.key import identify\n"
        "found = sources.source_dir(); print(found); print(identify(found, CPU).key); print(locate())\n"
        "from deploykit import shipped; from deploykit.deployment.target import open_target\n"
        "print(shipped.path('smollm2-135m')); print(shipped.schema_path().is_file()); print(len(shipped.names()))\n"
        "print(open_target('smollm2-135m').name)"
    )
    done = subprocess.run(
        [str(python), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folder, key, located, recipe, schema, count, name = done.stdout.splitlines()
    assert folder == str(site / "deploykit" / "_native_src")
    here = identify(checkout / "native", CPU)
    assert key == here.key
    assert located == "None" or here.key in located
    assert recipe == str(site / "deploykit" / "_recipes" / "smollm2-135m.yaml")
    assert (schema, name) == ("True", "smollm2-135m")
    assert int(count) == len(list((checkout / "recipes").glob("*.yaml")))
