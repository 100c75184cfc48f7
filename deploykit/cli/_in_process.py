"""Engine and front in one process, for a debugger: breakpoints in the code of both are hit."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deploykit.errors import DeploykitError
from deploykit.supervise.child import StatusWriter

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.engine.process import EngineProcess
    from deploykit.plan.types import Plan
    from deploykit.supervise.run import Inputs
    from deploykit.supervise.types import Role

NO_TIMEOUT = ("server.limits.request_timeout=24h",)  # a request that waits at a breakpoint is not late
_STOP_S = 3.0  # for the engine's last step, once the front has ended

Take = Callable[["Role", dict[str, Any]], None]


def serve_in_process(inputs: Inputs) -> int:
    """Serve until SIGTERM or Ctrl-C and the drain after it. Must run in the main thread (signals).

    The engine runs in a thread of its own, the front in this one; between them is the same socket as ever. Raises
    DeploykitError where one of them fails: there is nobody to start it again.
    """
    import msgspec

    from deploykit.plan.types import Plan
    from deploykit.server.__main__ import serve

    logging.getLogger().addHandler(_ToLog(inputs.listener.line))
    watcher = _Watcher(inputs)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, watcher.on_signal)  # SIGTERM until the front takes it itself
    plan = msgspec.json.decode(inputs.plan_file.read_bytes(), type=Plan)
    engine = _Engine(plan, inputs.engine_socket, watcher)
    engine.start()
    try:
        # The front closes the descriptor that it is given.
        listening = os.dup(inputs.listening.fileno())
        code = asyncio.run(serve(inputs.spec_file, listening, _Status("front", watcher.take)))
    finally:
        engine.stop()
        if engine.error is not None:
            raise engine.error
    return code


class _Engine(threading.Thread):
    """The engine's loop. Where it fails, the whole deployment is told to end."""

    def __init__(self, plan: Plan, socket: Path, watcher: _Watcher) -> None:
        super().__init__(name="engine", daemon=True)
        self.error: DeploykitError | None = None
        self._plan = plan
        self._socket = socket
        self._watcher = watcher
        self._process: EngineProcess | None = None

    def run(self) -> None:
        from deploykit.engine.process import EngineProcess

        try:
            self._process = EngineProcess(self._plan, self._socket, _Status("engine", self._watcher.take))
            self._process.run(own_process=False)
            return
        except DeploykitError as error:
            self.error = error
        except Exception as error:
            logging.exception("the engine ended")
            self.error = DeploykitError(f"the engine ended: {type(error).__name__}: {error}")
        self._watcher.front_serves.wait()  # from then on it takes the signal for an order to drain
        os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
        self.join(_STOP_S)  # one that is still loading, or waits at a breakpoint, ends with the process


class _Watcher:
    """What the supervisor does elsewhere: passes status lines on, and says when the two serve together."""

    def __init__(self, inputs: Inputs) -> None:
        self.front_serves = threading.Event()
        self._inputs = inputs
        self._lock = threading.Lock()
        self._ready: set[Role] = set()
        self._detail: dict[str, Any] = {}
        self._draining = False
        self._told_to_end = False
        for role in ("engine", "front"):
            inputs.listener.started(role, os.getpid())

    def on_signal(self, *_: object) -> None:
        """In the main thread: an order to end, which a front that isn't there yet gets when it is."""
        self._told_to_end = True
        if self.front_serves.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def take(self, role: Role, line: dict[str, Any]) -> None:
        """A status line of one of the two, in its thread."""
        with self._lock:
            match line["event"]:
                case "stage":
                    self._inputs.listener.stage(role, line)
                case "ready":
                    self._ready.add(role)
                    if role == "engine":
                        self._detail = line["detail"]
                    else:
                        self.front_serves.set()
                        if self._told_to_end:
                            os.kill(os.getpid(), signal.SIGTERM)
                    if len(self._ready) == 2:
                        threading.Thread(target=self._announce, name="announce", daemon=True).start()
                case "heartbeat" if line["phase"] == "draining" and not self._draining:
                    self._draining = True
                    self._inputs.listener.draining()

    def _announce(self) -> None:
        while not self._inputs.probe():
            time.sleep(0.05)
        with self._lock:
            self._inputs.listener.ready(self._detail)


class _Status(StatusWriter):
    """Status lines that stay in the process."""

    def __init__(self, role: Role, take: Take) -> None:
        super().__init__(-1)
        self._role = role
        self._take = take

    def _write(self, line: dict[str, Any], *, droppable: bool = False) -> None:
        self._take(self._role, line)


class _ToLog(logging.Handler):
    """Records go to the deployment's log too, as the lines of a child would."""

    def __init__(self, line: Callable[[str, str], None]) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        role = "engine" if record.name.startswith("deploykit.engine") else "front"
        for text in self.format(record).splitlines():
            self._line(role, f"{record.levelname} {record.name}: {text}")
