"""The child's end of the status pipe."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator

import pytest

from deploykit.supervise.child import PIPE_ATOMIC, StatusWriter
from deploykit.supervise.process import Lines


@pytest.fixture
def pipe() -> Iterator[tuple[Lines, StatusWriter]]:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    lines = Lines(read_fd)
    yield lines, StatusWriter(write_fd)
    lines.close()
    os.close(write_fd)


def test_lines_are_the_documented_ones(pipe: tuple[Lines, StatusWriter]) -> None:
    lines, status = pipe
    status.stage("weights", 0.3, "1 of 3")
    status.ready(num_blocks=4)
    status.heartbeat("step", 60, 12)
    status.fatal("it broke", why="because")
    assert [json.loads(line) for line in lines.read()] == [
        {"event": "stage", "stage": "weights", "fraction": 0.3, "detail": "1 of 3"},
        {"event": "ready", "detail": {"num_blocks": 4}},
        {"event": "heartbeat", "phase": "step", "expected_s": 60, "step": 12},
        {"event": "fatal", "what": "it broke", "why": "because", "exit_code": 1},
    ]


@pytest.mark.parametrize("text", ["x" * 100_000, "ä" * 50_000, "\ud800" * 10, '"\\\n' * 9_000])
def test_a_long_text_stays_one_line_that_a_pipe_takes_whole(
    pipe: tuple[Lines, StatusWriter], text: str
) -> None:
    lines, status = pipe
    status.fatal(text, why=text, fix="short")
    (line,) = lines.read()
    assert len(line) < PIPE_ATOMIC
    message = json.loads(line)
    assert message["event"] == "fatal"
    assert message["fix"] == "short"
    assert message["what"][:2] == text[:2]


def test_threads_do_not_mix_their_lines(pipe: tuple[Lines, StatusWriter]) -> None:
    lines, status = pipe
    threads = [
        threading.Thread(target=lambda i=i: [status.stage("s", detail=f"{i}" * 900) for _ in range(50)])
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    seen: list[bytes] = []
    while len(seen) < 200:
        seen += lines.read()
    for thread in threads:
        thread.join()
    assert all(len(set(json.loads(line)["detail"])) == 1 for line in seen)


def test_heartbeats_never_wait_for_a_supervisor_that_does_not_read(
    pipe: tuple[Lines, StatusWriter],
) -> None:
    _, status = pipe
    for step in range(5_000):
        status.heartbeat("step", step=step)  # a waiting one would wait for seconds, each


def test_a_supervisor_that_is_gone_raises_nothing() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    StatusWriter(write_fd).ready()
    os.close(write_fd)
