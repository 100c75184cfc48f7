"""One supervised child process: spawned in a session of its own, heard through two pipes, ended for certain."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import site
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import deploykit

TAIL_LINES = 20
_READ = 64 << 10
_MAX_LINE = 64 << 10  # bytes; a longer line is cut there

Argv = Callable[[int], list[str]]  # from the number of the status fd to the command line


def python_module(module: str) -> list[str]:
    """The command that runs a module of ours, and never a file of the same name in the current folder."""
    return [sys.executable, "-P", "-m", module]


def child_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment, with deploykit importable where it runs from a checkout that nobody installed."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **(extra or {})}
    root = str(Path(deploykit.__file__).parents[1])
    if root not in (*site.getsitepackages(), site.getusersitepackages()):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (root, env.get("PYTHONPATH"))))
    return env


class Lines:
    """A non-blocking pipe, cut into lines."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended = False  # the other end is closed and everything has been read
        self._pending = b""
        os.set_blocking(fd, False)

    def read(self) -> list[bytes]:
        """The lines that are whole now."""
        lines: list[bytes] = []
        for _ in range(16):  # a child that floods its pipe must not keep the supervisor from its other work
            try:
                chunk = os.read(self.fd, _READ)
            except BlockingIOError:
                return lines
            if not chunk:
                self.ended = True
                if self._pending:
                    lines.append(self._pending)
                    self._pending = b""
                return lines
            *whole, self._pending = (self._pending + chunk).split(b"\n")
            lines += whole
            if len(self._pending) > _MAX_LINE:
                lines.append(self._pending)
                self._pending = b""
        return lines

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Child:
    """A running child. `status` and `output` are for a selector; everything that is read also comes back."""

    def __init__(
        self, name: str, argv: Argv, *, pass_fds: Sequence[int] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.started = time.monotonic()
        self.ready = False
        self.fatal: dict[str, Any] | None = None
        self.heard: float | None = None  # last heartbeat
        self.phase = ""
        self.step = 0
        self.expected_s = 0.0
        self.progressed = self.started  # when the phase, its step or its fraction last moved
        status_read, status_write = os.pipe()
        output_read, output_write = os.pipe()
        try:
            self._popen = subprocess.Popen(
                argv(status_write),
                stdin=subprocess.DEVNULL,
                stdout=output_write,
                stderr=output_write,
                pass_fds=(status_write, *pass_fds),
                start_new_session=True,
                env=child_env(env),
            )
        except BaseException:
            os.close(status_read)
            os.close(output_read)
            raise
        finally:
            os.close(status_write)
            os.close(output_write)
        self.status = Lines(status_read)
        self.output = Lines(output_read)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def read_status(self) -> list[dict[str, Any]]:
        """New status lines. What is no JSON object goes to the tail, for a person to see."""
        messages: list[dict[str, Any]] = []
        for line in self.status.read():
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if isinstance(message, dict):
                self._note(message)
                messages.append(message)
            else:
                self.tail.append(line.decode(errors="replace"))
        return messages

    def read_output(self) -> list[str]:
        """New lines of stdout and stderr."""
        texts = [line.decode(errors="replace").rstrip("\r") for line in self.output.read()]
        self.tail.extend(t for t in texts if t.strip())
        return texts

    def _note(self, message: dict[str, Any]) -> None:
        now = time.monotonic()
        match message.get("event"):
            case "ready":
                self.ready = True
                self.progressed = now
            case "stage":
                self.progressed = now
            case "fatal":
                self.fatal = message
            case "heartbeat":
                self.heard = now
                phase, step = str(message.get("phase", "")), message.get("step", 0)
                if (phase, step) != (self.phase, self.step) or phase == "idle":
                    self.phase, self.step, self.progressed = phase, step, now
                expected = message.get("expected_s")
                self.expected_s = float(expected) if isinstance(expected, int | float) else 0.0

    def excuse(self, seconds: float) -> None:
        """The supervisor itself was away for so long (Ctrl-Z, a starved machine): no silence of the child's."""
        self.started += seconds
        self.progressed += seconds
        if self.heard is not None:
            self.heard += seconds

    def exited(self) -> bool:
        """Whether it has ended. What it left in its session is killed before its number can be given away."""
        if self._popen.returncode is not None:
            return True
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            ended = True
        if ended:
            self._kill_session()
            self._popen.wait()
        return ended

    def how_it_ended(self) -> str:
        """In words: `exited with code 1`, `was killed by SIGKILL`."""
        code = self._popen.returncode
        if code is not None and code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            hint = " (perhaps by the system, for want of memory)" if name == "SIGKILL" else ""
            return f"was killed by {name}{hint}"
        return f"exited with code {code}"

    def terminate(self) -> None:
        """SIGTERM: finish and end."""
        if not self.exited():
            self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to its whole session."""
        if not self.exited():
            self._kill_session()

    def _kill_session(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        """After `kill`."""
        self._popen.wait()

    def close(self) -> None:
        self.status.close()
        self.output.close()
