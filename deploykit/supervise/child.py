"""What a supervised child (engine, front) owes its supervisor: status lines, and to end when it ends.

Light on purpose: the standard library alone, so that it can be the first thing that a child imports.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PIPE_ATOMIC = 4096  # bytes: a pipe takes that much in one piece (PIPE_BUF on Linux)
_PR_SET_PDEATHSIG = 1


def bind_to_parent(status_fd: int) -> StatusWriter:
    """End this process when its supervisor is gone, and return the writer of its status pipe.

    Two guards: on Linux the kernel kills the child when the supervisor dies, whatever the child is doing;
    everywhere a thread waits for the pipe's other end to close. Call it first, before anything loads.
    """
    os.set_inheritable(status_fd, False)  # a grandchild must not keep the pipe open
    os.set_blocking(status_fd, False)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_end_with_parent, args=(status_fd,), name="parent-watch", daemon=True).start()
    return StatusWriter(status_fd)


def _end_with_parent(status_fd: int) -> None:
    """Wait until the pipe polls as an error: its reader is gone, perhaps since before the other guard."""
    poller = select.poll()
    poller.register(status_fd, 0)
    while True:
        try:
            events = poller.poll(1000)
        except OSError:
            return
        if any(mask & select.POLLNVAL for _, mask in events):
            return  # closed by this process itself
        if events:
            os._exit(1)


class StatusWriter:
    """Writes status lines: one JSON object a line, each in one piece, from any thread.

    A supervisor that doesn't read (a stopped terminal) never stops the child: heartbeats are dropped then,
    and the rest waits for room for at most five seconds.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def stage(self, stage: str, fraction: float | None = None, detail: str = "") -> None:
        """Progress of loading: `stage` is weights | engine | kv | warmup, `fraction` is 0..1."""
        line: dict[str, Any] = {"event": "stage", "stage": stage}
        if fraction is not None:
            line["fraction"] = round(min(1.0, max(0.0, fraction)), 4)
        if detail:
            line["detail"] = detail
        self._write(line)

    def ready(self, **detail: Any) -> None:
        """The child serves. `detail` is printed and recorded: blocks, bytes predicted and measured, …"""
        self._write({"event": "ready", "detail": detail})

    def heartbeat(self, phase: str, expected_s: float = 0.0, step: int = 0) -> None:
        """Alive, in `phase`, which may take `expected_s` seconds without `step` moving (0 = no limit)."""
        self._write(
            {"event": "heartbeat", "phase": phase, "expected_s": expected_s, "step": step}, droppable=True
        )

    def fatal(
        self,
        what: str,
        *,
        where: str | None = None,
        why: str | None = None,
        fix: str | None = None,
        exit_code: int = 1,
    ) -> None:
        """The child can't serve and ends now; before the first `ready` the supervisor doesn't try again."""
        line = {
            "event": "fatal",
            "what": what,
            "where": where,
            "why": why,
            "fix": fix,
            "exit_code": exit_code,
        }
        self._write({k: v for k, v in line.items() if v is not None})

    def start_heartbeats(self, state: Callable[[], tuple[str, float, int]], interval: float = 1.0) -> None:
        """A thread that sends `heartbeat(*state())` every `interval` seconds while the process lives.

        It shows that the process runs; a loop that may stop on its own shows that through `step`.
        """

        def beat() -> None:
            while True:
                self.heartbeat(*state())
                time.sleep(interval)

        threading.Thread(target=beat, name="heartbeat", daemon=True).start()

    def _write(self, line: dict[str, Any], *, droppable: bool = False) -> None:
        data = _encode(line)
        deadline = time.monotonic() + 5.0
        with self._lock:
            while True:
                try:
                    os.write(self._fd, data)  # at most PIPE_ATOMIC bytes: all or nothing
                    return
                except BlockingIOError:
                    if droppable or time.monotonic() > deadline:
                        return
                    time.sleep(0.02)
                except OSError:
                    return  # no reader: the watcher ends this process


def _encode(line: dict[str, Any]) -> bytes:
    """One line of at most PIPE_ATOMIC bytes; long texts lose their middle."""
    limit = PIPE_ATOMIC
    while True:
        data = json.dumps(line, default=str).encode() + b"\n"
        if len(data) <= PIPE_ATOMIC:
            return data
        limit //= 2
        line = {k: _shorten(v, limit) for k, v in line.items()}


def _shorten(value: Any, limit: int) -> Any:
    if isinstance(value, dict):
        value = json.dumps(value, default=str)
    if isinstance(value, str) and len(value) > limit:
        return value[: limit // 2] + " … " + value[-limit // 2 :]
    return value
