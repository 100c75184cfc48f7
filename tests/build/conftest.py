"""A tiny C++ tree in a cache of its own; every test has other sources, and all share one working tree."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def build_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build-cache")


@pytest.fixture
def cache(build_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(build_cache))
    monkeypatch.delenv("DEPLOYKIT_NATIVE_DIR", raising=False)
    return build_cache


@pytest.fixture
def tree(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sources that this process and `tiny_native.start` build."""
    import tiny_native

    from deploykit.build import sources

    folder = tiny_native.write(tmp_path / "native")
    other = folder / "other.cpp"
    other.write_text(other.read_text() + f"// {tmp_path}\n")
    monkeypatch.setattr(sources, "find_sources", lambda: folder)
    return folder


@pytest.fixture
def start(tree: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start("build", …)`: deploykit in a process of its own, which doesn't outlive the test."""
    import tiny_native

    started: list[subprocess.Popen[str]] = []

    def run(*args: str) -> subprocess.Popen[str]:
        started.append(tiny_native.start(tree, *args))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate()
