"""However a pipe ends, its engine process ends with it; and an engine that dies is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from pipe_waiting import until

from deploykit import GenerationConfig, GenerationError, pipeline
from deploykit.errors import DeploykitError
from deploykit.supervise.osinfo import start_identity

OWNER = Path(__file__).parent / "pipe_owner.py"
LONG = GenerationConfig(max_new_tokens=1900)

pytestmark = pytest.mark.usefixtures("fake_runner")


def gone(pid: int) -> bool:
    return start_identity(pid) is None


def runtime_folders() -> set[Path]:
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return set(Path(base).glob("deploykit-*/owner"))


def children() -> set[int]:
    """Of this process."""
    found = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "pid=,args="], capture_output=True, text=True
    )
    return {int(line.split()[0]) for line in found.stdout.splitlines() if "deploykit.engine" in line}


class Owner:
    def __init__(self, how: str, model: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(OWNER), how, str(model)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first, self.process.communicate()[1]
        pid, _, folder = first.strip().partition(" ")
        self.engine, self.folder = int(pid), Path(folder)

    def end(self) -> tuple[str, str]:
        out, err = self.process.communicate(timeout=60)
        until(lambda: gone(self.engine), "the engine is still there", 5.0)
        return out, err


@pytest.mark.parametrize(
    ("how", "code", "stderr"),
    [("exit", 0, ""), ("raise", 1, "RuntimeError: the program's own"), ("threads", 0, ""), ("stream", 3, "")],
)
def test_nothing_is_left_when_the_program_ends(how: str, code: int, stderr: str, tiny: Path) -> None:
    owner = Owner(how, tiny)
    _, err = owner.end()
    assert owner.process.returncode == code, err
    assert err.strip().splitlines()[-1:] == ([stderr] if stderr else []), err
    assert not owner.folder.exists()


def test_nothing_is_left_when_the_program_is_killed(tiny: Path) -> None:
    owner = Owner("kill", tiny)
    owner.end()
    assert owner.process.returncode == -signal.SIGKILL
    # Nobody could take its folder away: the next pipe does, once the folder is too old to be one that is being made.
    os.utime(owner.folder / "owner", (0, 0))
    with pipeline(tiny):
        assert not owner.folder.exists()


def test_a_forked_child_is_told_and_takes_nothing_with_it(tiny: Path) -> None:
    out, err = Owner("fork", tiny).end()
    assert "GenerationError this pipe belongs to the process" in out, err
    assert out.splitlines()[-1] == "3"


def test_a_pipe_that_nobody_holds_any_more_ends(tiny: Path) -> None:
    owner = Owner("drop", tiny)
    assert owner.process.stdout is not None
    assert owner.process.stdout.readline() == "dropped\n"
    until(lambda: gone(owner.engine), "the engine is still there", 5.0)
    assert owner.process.poll() is None
    owner.process.kill()
    owner.end()


@pytest.mark.parametrize("where", ["loop", "watcher"])
def test_a_pipe_may_be_collected_in_its_own_threads(where: str, tiny: Path) -> None:
    holder = [pipeline(tiny)]
    core = holder[0]._core
    engine = core.host.pid
    assert engine is not None
    if where == "loop":
        core.loop.call_soon_threadsafe(holder.clear)
    else:
        core.host._supervisor.listener.line = lambda *_: holder.clear()
        os.kill(engine, signal.SIGKILL)  # the watcher says so, in a line
    until(lambda: not core.host.thread.is_alive(), "the watching thread goes on")
    until(lambda: not core._thread.is_alive(), "the loop goes on")
    assert children() == set()


def test_ctrl_c_at_a_terminal_ends_program_and_engine(tiny: Path) -> None:
    owner = Owner("terminal", tiny)
    owner.process.send_signal(signal.SIGINT)
    _, err = owner.end()
    assert "KeyboardInterrupt" in err
    assert not owner.folder.exists()


@pytest.mark.parametrize("fault", ["engine.load:raise", "engine.load:exit"])
def test_a_pipe_that_can_not_be_made_leaves_nothing(
    fault: str, tiny: Path, fake_runner: pytest.MonkeyPatch
) -> None:
    before = runtime_folders()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOYKIT_FAULT", fault)
        with pytest.raises(DeploykitError, match="the engine"):
            pipeline(tiny)
    assert children() == set()
    assert runtime_folders() <= before


def test_ctrl_c_while_a_pipe_is_made_leaves_nothing(tiny: Path) -> None:
    before = runtime_folders()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOYKIT_FAULT", "engine.load:delay=30")

        def interrupt() -> None:
            until(lambda: children(), "no engine was started")
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            pipeline(tiny)
        thread.join()
    assert children() == set()
    assert runtime_folders() <= before


def test_an_engine_that_dies_is_started_again(tiny: Path) -> None:
    with pipeline(tiny, log_level="ERROR") as pipe:
        before = pipe("Hi", GenerationConfig(max_new_tokens=8)).text
        first = pipe._core.host.pid
        assert first is not None
        session = pipe.chat("Hi", None, GenerationConfig(max_new_tokens=8)).session
        stream = iter(pipe.stream("Hi", LONG))
        next(stream)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(GenerationError) as caught:
            list(stream)
        assert caught.value.code == "engine_restarted"
        assert pipe("Hi", GenerationConfig(max_new_tokens=8)).text == before  # waits for the new one
        assert pipe._core.host.pid not in (None, first)
        assert pipe.chat("More", session, GenerationConfig(max_new_tokens=8)).generate_token_len == 8
    assert children() == set()


def test_an_engine_that_keeps_dying_is_given_up_and_every_call_says_so(tiny: Path) -> None:
    with pipeline(tiny, sets=["server.restart.max=0"], log_level="ERROR") as pipe:
        assert pipe._core.host.pid is not None
        os.kill(pipe._core.host.pid, signal.SIGKILL)
        with pytest.raises(DeploykitError):
            pipe("Hi", LONG)
        until(lambda: pipe._core.host.failure is not None, "the engine isn't given up")
        with pytest.raises(DeploykitError, match="the engine ended"):
            pipe("Hi")


def test_closing_ends_what_runs_in_other_threads(tiny: Path) -> None:
    pipe = pipeline(tiny)
    engine = pipe._core.host.pid
    errors: list[GenerationError] = []

    def ask() -> None:
        try:
            pipe(["Hi"] * 3, LONG)
            errors.extend(r.error for r in pipe(["Hi"] * 3, LONG) if r.error)
        except GenerationError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: pipe._core.client.unfinished > 0, "nothing runs")
    pipe.close()
    pipe.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert {error.code for error in errors} == {"closed"}
    assert engine is not None
    assert gone(engine)
    with pytest.raises(GenerationError, match="closed"):
        pipe("Hi")
    with pytest.raises(GenerationError, match="closed"):
        pipe.stream("Hi")
    assert "closed" in repr(pipe)
