"""A private deployment: started when nothing runs, used, and gone with its chat, however that ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from deploykit.supervise.osinfo import start_identity
from deploykit.supervise.state import read_all

COMMAND = [sys.executable, "-m", "deploykit", "chat"]


@pytest.fixture(autouse=True)
def _fake_runner(monkeypatch):
    monkeypatch.setenv("DEPLOYKIT_TESTING", "1")
    monkeypatch.setenv("DEPLOYKIT_RUNNER", "fake")


def _until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)
    return found


def _ready_record():
    return next((s for s in read_all() if s.status == "ready"), None)


def test_it_is_started_said_used_and_gone(smollm2):
    done = subprocess.run(
        [*COMMAND, str(smollm2), "hello", "--set", "max_tokens=5", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "DEPLOYKIT_API_KEY": "not-for-a-private-one"},
    )
    assert done.returncode == 0, done.stderr
    assert "starting a private deployment of" in done.stderr
    answer = json.loads(done.stdout)
    assert answer["usage"]["completion_tokens"] == 5
    assert not answer["model"].startswith("private")  # the model's name, not the deployment's
    assert read_all() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_it_ends_with_a_chat_that_is_ended(smollm2, number, code):
    question = ["tell me more", "--set", "max_tokens=100000", "--no-stats"]
    chat = subprocess.Popen(
        [*COMMAND, str(smollm2), *question],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "DEPLOYKIT_FAULT": "engine.step:delay=0.02"},
    )
    record = _until(_ready_record)
    assert record.private
    assert chat.stdout.read(10)  # it answers
    chat.send_signal(number)
    chat.stdout.read()
    assert chat.wait(30) == code
    for pid in (record.pid, record.engine_pid, record.front_pid):
        _until(lambda pid=pid: start_identity(pid) is None)


def test_a_model_that_can_not_be_served_is_told(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    done = subprocess.run(
        [*COMMAND, str(tmp_path / "broken.gguf"), "hello"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert "broken.gguf" in done.stderr
    assert "Traceback" not in done.stderr
