"""Sources in order, each failure kept, and what stays light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit.errors import ConfigError, DeploykitError
from deploykit.hub import HfRef, PathRef, PypiRef, fetch, locate
from deploykit.hub.disk import free_bytes, require_space


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    got = fetch([PathRef(str(tmp_path))], cache=tmp_path / "cache", offline=True)
    assert (got.path, got.revision) == (tmp_path, None)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ConfigError, match="no such folder or file") as e:
        fetch([PathRef(str(tmp_path / "nowhere"))], cache=tmp_path)
    assert e.value.exit_code == 2


def test_what_is_on_the_disk_goes_before_any_connection(tmp_path: Path) -> None:
    refs = [HfRef("owner/name"), PypiRef("a==1", "f", "0" * 64), PathRef(str(tmp_path))]
    got = fetch(refs, cache=tmp_path / "cache")
    assert got.source.startswith("path ")
    assert locate(refs, cache=tmp_path / "cache") == got


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.mark.usefixtures("_no_network")
def test_when_all_fail_each_is_listed(tmp_path: Path) -> None:
    refs = [PypiRef("a==1", "f", "0" * 64), HfRef("owner/name"), PathRef("/nowhere/model")]
    with pytest.raises(DeploykitError) as e:
        fetch(refs, cache=tmp_path / "cache")
    text = str(e.value)
    assert "1. pypi a==1: pip couldn't download" in text
    assert "2. hf owner/name@main: the hub couldn't be reached" in text
    assert "3. path /nowhere/model: there is no such folder" in text
    assert "HF_ENDPOINT" in text
    assert e.value.exit_code == 1


@pytest.mark.usefixtures("_no_network")
def test_a_failure_before_success_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "late"

    def appear(*args: object) -> None:
        target.mkdir(exist_ok=True)

    got = fetch(
        [PypiRef("a==1", "f", "0" * 64), PathRef(str(target))], cache=tmp_path / "cache", report=appear
    )
    assert got.path == target
    (failure,) = got.failures
    assert "pypi a==1" in failure


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands where the folder should be")
    with pytest.raises(DeploykitError, match="can't be written"):
        fetch([PypiRef("a==1", "f", "0" * 64)], cache=tmp_path / "cache")


def test_disk_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(free_bytes(tmp_path), rel=0.05)
    require_space(tmp_path, 1, what="nothing much")
    with pytest.raises(DeploykitError, match="not enough"):
        require_space(tmp_path, 1 << 60, what="the moon")


def test_the_room_stays_light() -> None:
    heavy = ("torch", "transformers", "numpy", "tokenizers", "huggingface_hub", "httpx", "pydantic")
    code = f"import sys, deploykit.hub, deploykit.checkpoint; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
