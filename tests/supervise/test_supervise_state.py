"""The record on the disk: true about processes that live, honest about those that don't."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from supervised import wait_until

from deploykit.errors import ConfigError
from deploykit.supervise import state as states
from deploykit.supervise.osinfo import send_signal, start_identity
from deploykit.supervise.state import StateFile, acquire, forget, read, read_all
from deploykit.supervise.stop import stop

pytestmark = pytest.mark.usefixtures("state_folder")


def make(name: str, **changes: object) -> StateFile:
    os.close(acquire(name))
    record = StateFile(name, url="http://127.0.0.1:1", target="t")
    record.update(**changes)
    return record


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process  # type: ignore[misc]
    process.kill()
    process.wait()


def test_a_record_is_what_was_written() -> None:
    make("a", status="ready", engine="fake", restarts=2)
    state = read("a")
    assert state is not None
    assert (state.status, state.engine, state.restarts, state.pid) == ("ready", "fake", 2, os.getpid())
    assert (states.folder_of("a") / "state.json").stat().st_mode & 0o777 == 0o600
    assert states.folder_of("a").stat().st_mode & 0o777 == 0o700


def test_a_dead_supervisor_is_a_failed_deployment(sleeper: subprocess.Popen[bytes]) -> None:
    make("a", status="ready", pid=sleeper.pid, start=start_identity(sleeper.pid))
    assert read("a").status == "ready"  # type: ignore[union-attr]
    sleeper.kill()
    sleeper.wait()
    state = read("a")
    assert state is not None
    assert (state.status, state.error) == ("failed", "its supervisor was killed")


def test_a_number_that_another_process_got_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    """The record names a live pid, but of a process that started at another time."""
    make("a", status="ready", pid=sleeper.pid, start="another-boot/1")
    state = read("a")
    assert state is not None
    assert state.status == "failed"
    assert not send_signal(sleeper.pid, "another-boot/1", signal.SIGKILL)
    outcomes = [outcome for _, outcome in stop([state])]
    assert [o.ended for o in outcomes] == [True]
    assert sleeper.poll() is None
    assert read("a") is None


def test_signals_reach_the_very_process(sleeper: subprocess.Popen[bytes]) -> None:
    identity = start_identity(sleeper.pid)
    assert identity is not None
    assert send_signal(sleeper.pid, identity, signal.SIGTERM)
    assert sleeper.wait(10) == -signal.SIGTERM
    assert start_identity(sleeper.pid) is None
    assert not send_signal(sleeper.pid, identity, signal.SIGTERM)


def test_a_zombie_counts_as_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: start_identity(process.pid) is None, "the zombie")
    process.wait()


def test_one_name_is_one_deployment() -> None:
    lock = acquire("a")
    with pytest.raises(ConfigError, match="a is already running") as caught:
        acquire("a")
    assert caught.value.exit_code == 2
    StateFile("a", url="http://127.0.0.1:7", target="r.yaml")
    with pytest.raises(ConfigError) as caught:
        acquire("a")
    assert "http://127.0.0.1:7" in (caught.value.why or "")
    assert str(os.getpid()) in (caught.value.why or "")
    assert "deploykit down a" in (caught.value.fix or "")
    with pytest.raises(ConfigError):
        forget("a")
    os.close(lock)
    forget("a")
    assert read("a") is None
    os.close(acquire("a"))


def test_a_lock_ends_with_its_process() -> None:
    script = "from deploykit.supervise.state import acquire; acquire('a'); print('held', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError):
        acquire("a")
    process.kill()
    process.wait()
    os.close(acquire("a"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": 1}', b"\xff" * 100])
def test_a_damaged_record_is_no_record(content: bytes) -> None:
    make("a")
    (states.folder_of("a") / "state.json").write_bytes(content)
    assert read("a") is None
    assert read_all() == []
    make("a")  # and doesn't stand in the way
    assert read("a") is not None


@pytest.mark.parametrize("name", ["../x", "", ".", "A", "a/b", "x" * 64, "a\n", "-a"])
def test_no_other_folder_is_ever_touched(name: str) -> None:
    for door in (states.folder_of, acquire, read, forget):
        with pytest.raises(ConfigError):
            door(name)


def test_stale_runtime_folders_are_removed_and_only_those(tmp_path: Path) -> None:
    stale, other = states.make_runtime_dir(), tmp_path / "precious"
    assert stale.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(stale / "engine.sock")) < 100
    (stale / "engine.sock").touch()
    other.mkdir()
    make("a", runtime_dir=str(stale))
    make("a", runtime_dir=str(other))  # the next start of that name cleans up
    make("a")
    assert not stale.exists()
    assert other.exists()


def test_a_long_temporary_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    folder = states.make_runtime_dir()
    assert len(os.fsencode(folder)) < 80
    states.remove_runtime_dir(folder)


def test_a_state_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="can't be recorded") as caught:
        acquire("a")
    assert "DEPLOYKIT_STATE" in (caught.value.fix or "")


def test_records_of_a_later_version_still_list() -> None:
    """An unknown field is no reason to lose sight of a running deployment."""
    record = make("a", status="ready")
    data = {**msgspec.to_builtins(record.state), "something_new": 1}
    (states.folder_of("a") / "state.json").write_bytes(msgspec.json.encode(data))
    assert [s.name for s in read_all()] == ["a"]
