"""A supervisor over stand-ins, in a process of its own: what the tests here share."""

from __future__ import annotations

import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOST = Path(__file__).with_name("host.py")
QUICK: dict[str, Any] = {"backoff": (0.05, 0.2), "tick": 0.05, "drain": 5.0, "stop": 1.0}
PATIENCE = 30.0  # seconds until a test that waits for an event is a failed one


def gone(pid: int) -> bool:
    """No such process, or a zombie."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def wait_until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


class Host:
    def __init__(
        self, engine: list[str], front: list[str], limits: dict[str, Any], owner_fd: int | None = None
    ) -> None:
        config = {"engine": engine, "front": front, "limits": {**QUICK, **limits}, "owner_fd": owner_fd}
        self.process = subprocess.Popen(
            [sys.executable, str(HOST), json.dumps(config)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=() if owner_fd is None else (owner_fd,),
        )
        self.seen: list[dict[str, Any]] = []
        self._over = False
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.port: int = self.wait("listening")["port"]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def wait(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next event of the kind; those before it are in `seen`."""
        while True:
            found = self._queue.get(timeout=PATIENCE)
            assert found is not None, f"it ended without {event}: {self.seen}"
            self.seen.append(found)
            if found["event"] == event and all(found.get(k) == v for k, v in fields.items()):
                return found

    def pid(self, role: str) -> int:
        """Of the latest process in that role."""
        return next(e["pid"] for e in reversed(self.seen) if e["event"] == "started" and e["role"] == role)

    def pids(self) -> list[int]:
        return [e["pid"] for e in self.seen if e["event"] == "started"]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Its exit code, everything it told read."""
        code = self.process.wait(PATIENCE)
        self._thread.join()
        while not self._over and (event := self._queue.get()) is not None:
            self.seen.append(event)
        self._over = True
        return code

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(4096):
        data += chunk
    return data
