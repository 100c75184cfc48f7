"""The supervisor over stand-in processes: start, crash, hang, drain, and nothing left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from supervised import Host, gone, read_all, wait_until

Start = Callable[..., Host]


def test_ready_only_when_both_serve(host: Start) -> None:
    h = host()
    assert h.wait("ready")["detail"] == {"num_blocks": 7, "bytes_measured": 11}
    assert {e["role"] for e in h.seen if e["event"] == "started"} == {"engine", "front"}
    assert {"event": "stage", "role": "engine", "stage": "weights"} in h.seen
    assert {"event": "line", "source": "engine", "text": "start 1"} in h.seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stop_drains_a_running_stream(host: Start, number: signal.Signals) -> None:
    h = host(front=["drain=0.5"])
    h.wait("ready")
    stream = h.connect()
    assert stream.recv(1)
    h.signal(number)
    h.wait("draining")
    assert not gone(h.pid("engine")), "the engine works on while the front drains"
    assert read_all(stream).endswith(b"[DONE]")
    assert h.wait("end")["code"] == 0
    assert h.end() == 0
    assert all(gone(pid) for pid in h.pids())
    assert [e["text"] for e in h.seen if e["event"] == "line" and e["text"] == "ended well"] == [
        "ended well"
    ] * 2


def test_second_signal_ends_at_once(host: Start) -> None:
    h = host(front=["drain=60"], engine=["on_term=ignore"], drain=60.0)
    h.wait("ready")
    stream = h.connect()
    stream.recv(1)
    h.signal(signal.SIGINT)
    h.wait("draining")
    h.signal(signal.SIGINT)
    assert h.end() == 130
    assert all(gone(pid) for pid in h.pids())


def test_a_front_that_does_not_drain_is_killed(host: Start) -> None:
    h = host(front=["on_term=ignore"], drain=0.1, drain_margin=0.1)
    h.wait("ready")
    h.signal(signal.SIGTERM)
    assert h.end() == 0
    assert all(gone(pid) for pid in h.pids())


def test_an_engine_that_ignores_sigterm_is_killed(host: Start) -> None:
    h = host(engine=["on_term=ignore"], stop=0.2)
    h.wait("ready")
    h.signal(signal.SIGTERM)
    assert h.end() == 0
    assert all(gone(pid) for pid in h.pids())


def test_interrupt_while_starting(host: Start) -> None:
    h = host(engine=["fault=mute"])
    h.wait("started", role="engine")
    h.signal(signal.SIGINT)
    assert h.end() == 130
    assert all(gone(pid) for pid in h.pids())


def test_killed_engine_is_started_again_and_the_front_stays(host: Start) -> None:
    h = host()
    h.wait("ready")
    front, engine = h.pid("front"), h.pid("engine")
    stream = h.connect()
    assert stream.recv(1)
    os.kill(engine, signal.SIGKILL)
    assert "SIGKILL" in h.wait("failed", role="engine")["how"]
    h.wait("ready")
    assert h.pid("front") == front
    assert h.pid("engine") != engine
    stream.settimeout(5)
    assert stream.recv(100), "the front's connections outlive the engine"


def test_killed_front_is_started_again_on_the_same_socket(host: Start) -> None:
    h = host()
    h.wait("ready")
    front, engine = h.pid("front"), h.pid("engine")
    os.kill(front, signal.SIGKILL)
    h.wait("failed", role="front")
    waiting = h.connect()  # the socket is still there: connections wait in it
    h.wait("ready")
    assert h.pid("engine") == engine
    assert int(waiting.makefile().readline()) == h.pid("front") != front


def test_children_end_with_a_killed_supervisor(host: Start) -> None:
    h = host(engine=["on_term=ignore"])
    h.wait("ready")
    h.process.kill()
    h.process.wait()
    for role in ("engine", "front"):
        wait_until(lambda role=role: gone(h.pid(role)), f"{role} gone", 2.0)
    from deploykit.supervise.listen import bind

    bind("127.0.0.1", h.port).close()  # and the port is free again


def test_what_a_dead_engine_left_in_its_session_is_killed(host: Start, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    h = host(engine=[f"grandchild={note}"])
    h.wait("ready")
    os.kill(h.pid("engine"), signal.SIGKILL)
    h.wait("failed", role="engine")
    wait_until(lambda: gone(int(note.read_text())) or True, "grandchild")
    h.signal(signal.SIGTERM)
    h.end()
    assert gone(int(note.read_text()))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("silent", "no heartbeat"), ("stuck", "made no progress"), ("mute", "said nothing")],
)
def test_a_hung_engine_is_killed_and_started_again(
    host: Start, tmp_path: Path, fault: str, reason: str
) -> None:
    runs = tmp_path / "runs"
    h = host(
        engine=[f"runs={runs}", f"fault={fault}", "fault_from=2"],
        heartbeat=0.5,
        margin=0.3,
        first_sign=3.0,
        restart_max=1,
    )
    h.wait("ready")
    os.kill(h.pid("engine"), signal.SIGKILL)  # the second one hangs
    h.wait("failed", role="engine")
    assert h.end() == 1
    gave_up = h.seen[-1]
    assert gave_up["event"] == "gave_up"
    assert reason in gave_up["why"]
    assert all(gone(pid) for pid in h.pids())


def test_a_stopped_engine_counts_as_hung(host: Start) -> None:
    h = host(heartbeat=0.5)
    h.wait("ready")
    engine = h.pid("engine")
    os.kill(engine, signal.SIGSTOP)
    assert "no heartbeat" in h.wait("failed", role="engine")["how"]
    h.wait("ready")
    assert gone(engine)


def test_a_stopped_supervisor_takes_nobody_for_hung(host: Start) -> None:
    h = host(heartbeat=0.5)
    h.wait("ready")
    h.signal(signal.SIGSTOP)
    time.sleep(1.0)
    h.signal(signal.SIGCONT)
    time.sleep(0.5)
    h.signal(signal.SIGTERM)
    assert h.end() == 0
    assert not [e for e in h.seen if e["event"] == "failed"]


def test_crash_loop_backs_off_and_gives_up_with_the_last_lines(host: Start, tmp_path: Path) -> None:
    h = host(engine=[f"runs={tmp_path / 'runs'}", "fault=exit", "fault_from=2"], restart_max=3)
    h.wait("ready")
    os.kill(h.pid("engine"), signal.SIGKILL)
    assert h.end() == 1
    failed = [e for e in h.seen if e["event"] == "failed"]
    assert [e["delay"] for e in failed] == [0.05, 0.1, 0.2]
    assert h.seen[-1]["what"] == "the engine ended 4 times within 600 s"
    assert "the last words" in h.seen[-1]["tail"]
    assert "code 3" in h.seen[-1]["why"]
    assert all(gone(pid) for pid in h.pids())


def test_failures_outside_of_the_window_are_forgiven(host: Start) -> None:
    h = host(engine=["fault=exit_later"], restart_max=1, restart_window=0.1)
    for _ in range(3):
        h.wait("failed", role="engine")


@pytest.mark.parametrize("role", ["engine", "front"])
def test_what_fails_at_the_first_start_is_not_tried_again(host: Start, role: str) -> None:
    h = host(**{role: ["fault=exit"]})
    assert h.end() == 1
    assert h.seen[-1]["what"] == f"the {role} didn't start"
    assert "the last words" in h.seen[-1]["tail"]
    assert len([e for e in h.seen if e["event"] == "started" and e["role"] == role]) == 1


def test_a_fatal_line_is_the_error(host: Start) -> None:
    h = host(engine=["fault=fatal"])
    assert h.end() == 2
    end = h.seen[-1]
    assert (end["what"], end["why"], end["fix"]) == ("the model has no tokens", "it is empty", "get another")


def test_no_restarts_means_none(host: Start) -> None:
    h = host(restart_max=0)
    h.wait("ready")
    os.kill(h.pid("engine"), signal.SIGKILL)
    assert h.end() == 1


def test_a_private_one_ends_with_its_owner(host: Start) -> None:
    read_fd, write_fd = os.pipe()
    h = host(owner_fd=write_fd)
    os.close(write_fd)
    h.wait("ready")
    os.close(read_fd)
    assert h.end() == 0
    assert all(gone(pid) for pid in h.pids())
