"""Several processes and one cache: one fetches and the others wait; what is in use stays."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hub_fakes import COMMIT, FILES, FakeHub, Fault

from deploykit.errors import DeploykitError
from deploykit.hub import Fetched, HfRef, fetch, hold, locate
from deploykit.hub.cache import Entry, entries, remove
from deploykit.hub.locks import exclusive, release, work_lock

FETCH = """
import sys
from pathlib import Path
from deploykit.hub import Fetched, HfRef, fetch
def report(p):
    print("waits" if "another process fetches it" in p.file else "fetches", flush=True)
got = fetch([HfRef("owner/name")], cache=Path(sys.argv[1]), report=report)
print(got.path.joinpath("model.safetensors").stat().st_size)
"""
HOLD = """
import sys, time
from pathlib import Path
from deploykit.hub import hold
print(hold(Path(sys.argv[2]), Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""
MAP = """
import mmap, sys
with open(sys.argv[2], "rb") as f:
    view = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
print(True, flush=True)
sys.stdin.read()
"""


@contextmanager
def process(program: str, *args: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs until the block ends; it has said that it is ready."""
    command = [sys.executable, "-c", program, *map(str, args)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        try:
            yield child
        finally:
            child.kill()


def the_model(cache: Path) -> Entry:
    (entry,) = entries(cache)
    return entry


def test_one_fetches_and_the_other_waits(hub: FakeHub, cache: Path) -> None:
    gate = threading.Event()
    hub.always["model.safetensors"] = Fault(gate=gate)
    first, second = (
        subprocess.Popen([sys.executable, "-c", FETCH, str(cache)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    assert first.stdout is not None
    assert second.stdout is not None
    words = {first.stdout.readline(), second.stdout.readline()}
    assert words == {"fetches\n", "waits\n"}
    gate.set()
    outputs = [p.communicate()[0].splitlines() for p in (first, second)]
    assert [p.returncode for p in (first, second)] == [0, 0]
    assert [lines[-1] for lines in outputs] == [str(len(FILES["model.safetensors"]))] * 2
    assert {word for lines in outputs for word in lines[:-1]} <= {"fetches", "waits"}
    assert len(hub.asked_for("config.json")) == 1


def test_the_one_who_waits_goes_on_when_the_other_is_killed(hub: FakeHub, cache: Path) -> None:
    gate = threading.Event()
    hub.always["model.safetensors"] = Fault(gate=gate)
    first = subprocess.Popen([sys.executable, "-c", FETCH, str(cache)], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not list(cache.rglob("config.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    results: list[Fetched] = []
    waits = threading.Event()
    thread = threading.Thread(
        target=lambda: results.append(fetch([HfRef("owner/name")], cache=cache, report=lambda p: waits.set()))
    )
    thread.start()
    assert waits.wait(30)
    assert results == []
    first.kill()
    first.communicate()
    gate.set()
    thread.join(60)
    assert [r.revision for r in results] == [COMMIT]
    assert len(hub.asked_for("config.json")) == 1


@pytest.mark.parametrize("program", [HOLD, MAP], ids=["held", "mapped"])
def test_a_model_in_use_isnt_removed(hub: FakeHub, cache: Path, program: str) -> None:
    path = fetch([HfRef("owner/name")], cache=cache).path
    used = path if program == HOLD else path / "model.safetensors"
    if program == MAP and not Path("/proc").is_dir():
        pytest.skip("this system doesn't tell what is mapped")
    with process(program, cache, used):
        with pytest.raises(DeploykitError, match="is in use") as e:
            remove(the_model(cache), cache)
        assert "deploykit ps" in str(e.value)
        assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    remove(the_model(cache), cache)  # the user was killed, and its lock with it
    assert locate([HfRef("owner/name")], cache=cache) is None


def test_a_model_that_was_removed_meanwhile_isnt_held(hub: FakeHub, cache: Path) -> None:
    path = fetch([HfRef("owner/name")], cache=cache).path
    remove(the_model(cache), cache)
    assert not hold(path, cache)
    release(path, cache)
    assert fetch([HfRef("owner/name")], cache=cache).path == path
    assert hold(path, cache)
    release(path, cache)


def test_what_is_being_fetched_isnt_removed(hub: FakeHub, cache: Path) -> None:
    stage = cache / "staging" / f"hf-owner--name-{COMMIT}"
    stage.mkdir(parents=True)
    (stage / "config.json.partial").write_bytes(b"{")
    with exclusive(work_lock(cache, stage.name)), pytest.raises(DeploykitError, match="is in use"):
        remove(the_model(cache), cache)
    remove(the_model(cache), cache)
    assert not stage.exists()
