"""A pipe's engine: a process of its own, started, watched and restarted by a thread that lives as long as it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from deploykit.deployment.stage import Report
from deploykit.errors import DeploykitError
from deploykit.fsutil import write_atomic
from deploykit.plan.types import Plan
from deploykit.supervise import state as states
from deploykit.supervise.process import python_module
from deploykit.supervise.progress import Progress
from deploykit.supervise.supervisor import Supervisor
from deploykit.supervise.types import Limits, Listener, Role

log = logging.getLogger("deploykit.engine")

_OWNER = "owner"  # in a runtime folder, locked for as long as it is in use
_YOUNG_S = 10.0  # a folder that may not be locked yet
_STAMPED = re.compile(r"[\d-]+ [\d:,]+ engine (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)", re.DOTALL)
_STOP_S = 10.0  # from the order to stop to the end of the watching thread, which kills after 3


class EngineHost:
    """Starts the engine of `plan` at once; `wait` returns when it serves.

    The engine is a child of the watching thread, which is the one that the kernel ends it with: a pipe may be made
    in any thread, and that thread may end. It ends with this process too, however that ends.
    """

    def __init__(self, plan: Plan, *, limits: Limits, log_level: str, report: Report, began: float) -> None:
        self.failure: DeploykitError | None = None  # it ended and won't be started again
        self.pid: int | None = None
        self._plan = plan
        self._ready = threading.Event()
        self._stopped = False
        self._level = logging.INFO
        self._lock = threading.Lock()  # of the control pipe
        self.folder = states.make_runtime_dir()
        try:
            self._owner = _own(self.folder)
            self.socket = self.folder / "engine.sock"
            plan_file = self.folder / "plan.json"
            write_atomic(plan_file, msgspec.json.encode(plan), mode=0o600)
            command = [
                *python_module("deploykit.engine"),
                *("--plan", str(plan_file), "--socket", str(self.socket), "--log-level", log_level),
            ]
            self._control_read, self._control_write = os.pipe()
        except BaseException:
            states.remove_runtime_dir(self.folder)
            raise
        self._progress = Progress(plan, "this process", report, began)
        self._supervisor = Supervisor(
            lambda fd: [*command, "--status-fd", str(fd)],
            None,
            limits=limits,
            listener=Listener(
                line=self._line, stage=self._progress.stage, started=self._started, ready=self._on_ready
            ),
            control_fd=self._control_read,
        )
        self.thread = threading.Thread(target=self._watch, name="deploykit-engine", daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Until the engine serves. Raises DeploykitError when it can't."""
        self._ready.wait()
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """End the engine and wait for its end. Does nothing the second time."""
        with self._lock:
            if not self._stopped and self._control_write >= 0:
                os.write(self._control_write, bytes([signal.SIGTERM]))
            self._stopped = True
        self.thread.join(_STOP_S)

    # ------------------------------------------------------------ the watching thread

    def _watch(self) -> None:
        try:
            self._supervisor.run()
            self.failure = DeploykitError("the pipe's engine was stopped")
        except DeploykitError as error:
            self.failure = error
        except Exception as error:  # a bug: whoever waits must hear of it
            self.failure = DeploykitError(f"the engine can't be watched: {type(error).__name__}: {error}")
            log.exception("the engine's supervisor failed")
        finally:
            self.pid = None
            self._ready.set()
            states.remove_runtime_dir(self.folder)
            with self._lock:
                for fd in (self._control_read, self._control_write, self._owner):
                    os.close(fd)
                self._control_write = -1

    def _started(self, role: Role, pid: int) -> None:
        self.pid = pid
        self._progress.started(role)

    def _on_ready(self, detail: dict[str, Any]) -> None:
        self._progress.ready(detail)
        self._ready.set()

    def _line(self, source: str, text: str) -> None:
        """A line of the engine's log goes to ours at its own level; lines without one belong to the one before."""
        if source == "supervisor":
            log.log(logging.INFO if self._stopped else logging.WARNING, "%s", text)
            return
        if match := _STAMPED.fullmatch(text):
            self._level, text = getattr(logging, match[1]), match[2]
        log.log(self._level, "%s", text)


def _own(folder: Path) -> int:
    """Mark a runtime folder as ours for as long as this process lives, and remove those beside it that are nobody's.

    A pipe whose process was killed leaves its folder behind; the lock in it went with the process.
    """
    import fcntl

    fd = os.open(folder / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    for other in folder.parent.glob(f"deploykit-*/{_OWNER}"):
        with contextlib.suppress(OSError):
            if other.parent == folder or other.stat().st_mtime > time.time() - _YOUNG_S:
                continue
            found = os.open(other, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
                states.remove_runtime_dir(other.parent)
            finally:
                os.close(found)
    return fd
