"""`up --in-process`: engine and front in one process, where a debugger sees the code of both."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# What a debugger does: a trace function in every thread.
TRACED = """
import sys, threading

PLACES = {("server/chat.py", "parse"), ("engine/core.py", "submit"), ("engine/fake.py", "launch")}

def trace(frame, event, arg):
    place = ("/".join(frame.f_code.co_filename.split("/")[-2:]), frame.f_code.co_name)
    if place in PLACES:
        PLACES.discard(place)
        print("hit", *place, "in", threading.current_thread().name, flush=True)

threading.settrace(trace)
sys.settrace(trace)
from deploykit.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


class Up:
    def __init__(self, target: Path, state: Path, *args: str, fault: str = "", code: str = "") -> None:
        env = {
            **os.environ,
            "DEPLOYKIT_STATE": str(state),
            "DEPLOYKIT_TESTING": "1",
            "DEPLOYKIT_RUNNER": "fake",
            "DEPLOYKIT_FAULT": fault,
        }
        program = ["-c", code] if code else ["-m", "deploykit"]
        command = [sys.executable, *program, "up", str(target), "--in-process", "--port", "0", *args]
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.env = env

    def wait_ready(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ready: ok"):
                return line.split()[2]
        raise AssertionError(self.process.communicate()[1])

    def ask(self, url: str, **fields: Any) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, **fields}
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def ups() -> Iterator[list[Up]]:
    started: list[Up] = []
    yield started
    for up in started:
        up.process.kill()
        up.process.communicate()


def test_it_serves_from_one_process_and_drains(tiny_checkpoint: Path, state: Path, ups: list[Up]) -> None:
    up = Up(tiny_checkpoint, state, "--set", "name=debug")
    ups.append(up)
    url = up.wait_ready()
    assert up.ask(url)["usage"]["completion_tokens"] == 5
    found = subprocess.run(
        ["ps", "--ppid", str(up.process.pid), "-o", "args="], capture_output=True, text=True
    )
    assert found.stdout == ""
    ps = subprocess.run(
        [sys.executable, "-m", "deploykit", "ps"], env=up.env, capture_output=True, text=True, check=True
    )
    assert re.search(rf"debug\s+ready\s+{url}\s+fake/cpu\s+{up.process.pid}", ps.stdout)
    out, err = up.end()
    assert up.process.returncode == 0, err
    assert out.splitlines()[-1] == "draining: ok stopped"
    log = (state / "deployments" / "debug" / "log").read_text()
    assert "front" in log
    assert "debug ended with exit code 0" in log


def test_breakpoints_in_engine_and_server_are_hit(tiny_checkpoint: Path, state: Path, ups: list[Up]) -> None:
    up = Up(tiny_checkpoint, state, code=TRACED)
    ups.append(up)
    up.ask(up.wait_ready())
    out, _ = up.end(signal.SIGINT)
    assert up.process.returncode == 0
    assert {line for line in out.splitlines() if line.startswith("hit")} == {
        "hit server/chat.py parse in MainThread",
        "hit engine/core.py submit in engine",
        "hit engine/fake.py launch in engine",
    }


def test_a_request_that_waits_at_a_breakpoint_is_not_late(
    tiny_checkpoint: Path, tmp_path: Path, state: Path, ups: list[Up]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"version: 1\nmodel: {{path: {tiny_checkpoint}}}\nserver: {{limits: {{request_timeout: 100ms}}}}\n"
    )
    up = Up(recipe, state, fault="engine.step:delay=0.5")
    ups.append(up)
    assert up.ask(up.wait_ready(), max_tokens=1)["usage"]["completion_tokens"] == 1
    up.end(signal.SIGHUP)
    assert up.process.returncode == 0
    asked = Up(recipe, state, "--set", "server.limits.request_timeout=100ms", fault="engine.step:delay=0.5")
    ups.append(asked)
    with pytest.raises(urllib.error.HTTPError) as caught:
        asked.ask(asked.wait_ready(), max_tokens=1)
    assert caught.value.code == 504


@pytest.mark.parametrize(
    ("fault", "message"),
    [("engine.load:raise", "the engine ended: ScriptedFault"), ("nonsense", "DEPLOYKIT_FAULT")],
)
def test_an_engine_that_fails_ends_it_with_its_error(
    fault: str, message: str, tiny_checkpoint: Path, state: Path, ups: list[Up]
) -> None:
    up = Up(tiny_checkpoint, state, fault=fault)
    ups.append(up)
    _, err = up.process.communicate(timeout=60)
    assert up.process.returncode in (1, 2)
    assert message in err


def test_the_end_while_the_engine_loads_is_at_once(tiny_checkpoint: Path, state: Path, ups: list[Up]) -> None:
    up = Up(tiny_checkpoint, state, fault="engine.load:delay=60")
    ups.append(up)
    assert up.process.stdout is not None
    for line in up.process.stdout:
        if line.startswith("plan: ok"):
            break
    deadline = time.monotonic() + 30
    log = state / "deployments" / "tiny" / "log"
    while "engine started" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    _, err = up.end()
    assert up.process.returncode == 0, err


def test_it_does_not_go_with_detach(tiny_checkpoint: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploykit", "up", str(tiny_checkpoint), "--in-process", "-d"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--in-process and --detach exclude each other" in done.stderr
