"""A GGUF's conversion that is stopped anywhere leaves no file that looks whole, and one name for one content."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import llama_tensors, metadata
from gguf_writer import write_gguf

from deploykit.checkpoint import content, convert, read_facts, safetensors
from deploykit.checkpoint.convert import cache_key, converted_file
from deploykit.errors import EXIT_NO_FIT, DeploykitError


def visible(cache: Path) -> list[Path]:
    return list((cache / "converted").rglob("*.safetensors"))


@pytest.fixture
def full_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """full_at(n): the disk is full after n bytes of each file."""

    real = os.pwrite

    def limit(nbytes: int) -> None:
        def pwrite(fd: int, data: Any, offset: int) -> int:
            if offset + len(data) <= nbytes:
                return real(fd, data, offset)
            if offset < nbytes:
                return real(fd, data[: nbytes - offset], offset)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "posix_fallocate", lambda fd, start, size: None)

    return limit


def test_a_full_disk_at_two_hundred_offsets(tiny_gguf: Path, tmp_path: Path, full_at: Any) -> None:
    facts = read_facts(tiny_gguf)
    good = converted_file(facts, "bfloat16", tmp_path)
    whole = good.read_bytes()
    size = converted_file(facts, "float32", tmp_path / "other").stat().st_size
    rng = random.Random(5)
    for offset in [0, 1, 7, 8, size - 1, *(rng.randrange(size) for _ in range(195))]:
        full_at(offset)
        with pytest.raises(DeploykitError, match="no room") as e:
            converted_file(facts, "float32", tmp_path)
        assert e.value.exit_code == EXIT_NO_FIT
        assert "are needed" in str(e.value)
        assert visible(tmp_path) == [good]
    assert good.read_bytes() == whole
    full_at(1 << 40)
    assert converted_file(facts, "float32", tmp_path).stat().st_size == size


def test_a_disk_that_is_full_from_the_start(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DeploykitError, match="no room"):
        converted_file(read_facts(tiny_gguf), "float32", tmp_path)
    assert list((tmp_path / "converted").iterdir()) == []


CHILD = """
import sys, time
from pathlib import Path
from deploykit.checkpoint import convert, read_facts
real = convert.put
def put(fd, data, offset):
    time.sleep(0.002)
    return real(fd, data, offset)
convert.put = put
print("ready", flush=True)
convert.converted_file(read_facts(sys.argv[1]), "float32", Path(sys.argv[2]))
print("done", flush=True)
"""


def test_killed_while_it_converts(tiny_gguf: Path, tmp_path: Path) -> None:
    rng = random.Random(9)
    whole = converted_file(read_facts(tiny_gguf), "float32", tmp_path / "good").read_bytes()
    cache = tmp_path / "cache"
    for _ in range(8):
        command = [sys.executable, "-c", CHILD, str(tiny_gguf), str(cache)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(rng.random() * 0.08)
            child.send_signal(signal.SIGKILL)
        for path in visible(cache) if (cache / "converted").exists() else []:
            assert path.read_bytes() == whole
    assert converted_file(read_facts(tiny_gguf), "float32", cache).read_bytes() == whole
    (folder,) = (cache / "converted").iterdir()
    assert [p.name for p in folder.iterdir()] == ["model.safetensors"]


def test_a_file_under_two_paths_is_converted_once(tiny_gguf: Path, tmp_path: Path) -> None:
    first = converted_file(read_facts(tiny_gguf), "float32", tmp_path)
    copy = tmp_path / "elsewhere" / "renamed.gguf"
    copy.parent.mkdir()
    shutil.copyfile(tiny_gguf, copy)
    os.utime(copy, (1, 1))
    assert cache_key(read_facts(copy)) == cache_key(read_facts(tiny_gguf))
    assert converted_file(read_facts(copy), "float32", tmp_path) == first
    assert len(visible(tmp_path)) == 1
    write_gguf(copy, metadata(), llama_tensors(seed=8))  # other weights under the same header
    os.utime(copy, (1, 1))
    assert converted_file(read_facts(copy), "float32", tmp_path) != first


def test_the_digest_is_remembered_until_the_file_is_touched(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = content.digest(tiny_gguf, tmp_path)
    calls: list[int] = []
    real = content.hashlib.sha256
    monkeypatch.setattr(content.hashlib, "sha256", lambda *a: calls.append(len(a)) or real(*a))  # type: ignore[func-returns-value]
    assert content.digest(tiny_gguf, tmp_path) == known
    assert 0 not in calls  # no hash over the bytes was begun
    before = tiny_gguf.stat()
    data = bytearray(tiny_gguf.read_bytes())
    data[-1] ^= 1
    tiny_gguf.write_bytes(data)
    os.utime(tiny_gguf, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert content.digest(tiny_gguf, tmp_path) != known
    for memo in (tmp_path / "digests").iterdir():
        memo.write_text("nonsense")
    assert content.digest(tiny_gguf, tmp_path) == content.digest(tiny_gguf)


def test_threads_write_what_one_would(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = converted_file(read_facts(tiny_gguf), "bfloat16", tmp_path / "many")
    monkeypatch.setattr(convert, "_MAX_THREADS", 1)
    one = converted_file(read_facts(tiny_gguf), "bfloat16", tmp_path / "one")
    assert one.read_bytes() == many.read_bytes()
    assert safetensors.read_header(one).tensors
