"""What the hash of the sources sees, and the snapshot that is compiled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny_native

from deploykit.build import Target, sources
from deploykit.errors import DeploykitError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_native.write(tmp_path / "native")


def test_the_digest_is_of_names_and_contents_not_of_times(folder: Path) -> None:
    before = sources.digest(folder)
    os.utime(folder / "engine.cpp", (1, 1))
    assert sources.digest(folder) == before
    (folder / "engine.cpp").rename(folder / "renamed.cpp")
    renamed = sources.digest(folder)
    (folder / "renamed.cpp").write_text("int x;\n")
    assert len({before, renamed, sources.digest(folder)}) == 3


def test_only_what_is_compiled_counts(folder: Path) -> None:
    before = sources.digest(folder)
    for name in (
        "NOTES.md",
        ".engine.cpp.swp",
        "__pycache__/z.h",
        "cuda/k.cu",
        "tests/core/test_x.cpp",
        "bench/y.cpp",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert sources.digest(folder) == before
    optional = {sources.digest(folder, [part]) for part in sources.OPTIONAL}
    assert len(optional | {before}) == 4
    assert sources.digest(folder, sources.parts_of(Target("cuda", "90a"))) in optional
    (folder / "cpu" / "tests").mkdir(parents=True)
    (folder / "cpu" / "tests" / "x.h").write_text("x")  # a room may be called so, below the root
    assert sources.digest(folder) != before


def test_a_snapshot_follows_the_sources_and_touches_only_what_changed(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    assert sources.snapshot(folder, copy) == sources.digest(folder)
    for file in copy.rglob("*.cpp"):
        os.utime(file, (1000, 1000))
    (folder / "other.cpp").unlink()
    (folder / "engine.cpp").write_text("int changed;\n")
    os.utime(folder / "engine.cpp", (1, 1))  # older than what was compiled of it
    assert sources.snapshot(folder, copy) == sources.digest(folder)
    assert not (copy / "other.cpp").exists()
    assert (copy / "module.cpp").stat().st_mtime == 1000
    assert (copy / "engine.cpp").stat().st_mtime > 1000


def test_the_header_is_the_truth_about_the_interface(folder: Path) -> None:
    assert sources.abi_version(folder) == 7
    (folder / "include/deploykit/engine.h").write_text("// nothing\n")
    with pytest.raises(DeploykitError, match="DEPLOYKIT_ABI_VERSION"):
        sources.abi_version(folder)


def test_the_checkout_has_sources() -> None:
    assert sources.source_dir().name == "native"
    assert sources.abi_version(sources.source_dir()) > 0


def test_an_installation_without_sources_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_PACKAGE", tmp_path / "site-packages" / "deploykit")
    assert sources.find_sources() is None
    with pytest.raises(DeploykitError, match="no C\\+\\+ sources"):
        sources.source_dir()
    tiny_native.write(tmp_path / "site-packages" / "deploykit" / "_native_src")
    assert sources.source_dir().name == "_native_src"
