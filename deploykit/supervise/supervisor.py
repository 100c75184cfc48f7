"""Watches the engine and the front (or the engine alone): starts them, restarts what dies or hangs, drains them."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deploykit.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, DeploykitError
from deploykit.supervise.process import Argv, Child
from deploykit.supervise.types import Limits, Listener, ProcessFailed, Role

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class _Slot:
    """A role's process, or the time at which it gets the next one."""

    argv: Argv
    pass_fds: tuple[int, ...] = ()
    child: Child | None = None
    start_at: float | None = 0.0
    failures: list[float] = field(default_factory=list)  # within the window
    was_ready: bool = False


class Supervisor:
    """Owns its children until `run` returns. Runs in the main thread (signals), unless `control_fd` is given."""

    def __init__(
        self,
        engine: Argv,
        front: Argv | None,
        *,
        listening_fd: int = -1,
        limits: Limits | None = None,
        listener: Listener | None = None,
        probe: Callable[[], bool] = lambda: True,
        owner_fd: int | None = None,
        control_fd: int | None = None,
    ) -> None:
        """`probe` says whether the two serve together; it is asked once both say that they are ready.

        `owner_fd` is the write end of a pipe; when its reader is gone the deployment stops (a private one).
        `control_fd` is the read end of one: the numbers of signals come from it, as bytes, and from nowhere else.
        """
        self.limits = limits or Limits()
        self.listener = listener or Listener()
        self._slots: dict[Role, _Slot] = {"engine": _Slot(engine)}
        if front is not None:
            self._slots["front"] = _Slot(front, (listening_fd,))
        self._selector = selectors.DefaultSelector()
        self._probe = probe
        self._owner_fd = owner_fd
        self._control_fd = control_fd
        self._signals: list[int] = []
        self._stopping: signal.Signals | None = None  # the first one
        self._stop_deadline = 0.0
        self._engine_told = False
        self._served = False  # has been ready once
        self._announced = False  # `ready` was said since the last failure
        self._detail: dict[str, Any] = {}
        self._looked = time.monotonic()

    # ------------------------------------------------------------ the loop

    def run(self) -> int:
        """Start both, watch until told to stop. The exit code; raises ProcessFailed when it gives up."""
        restore = self._catch_signals()
        try:
            while True:
                self._start_due()
                self._wait()
                self._check_exits()
                self._check_hangs()
                self._announce()
                self._check_owner()
                while self._signals:
                    if self._handle_signal(self._signals.pop(0)):
                        return EXIT_INTERRUPTED  # what is left is killed on the way out
                if self._stopping is not None and self._stopped():
                    return self._exit_code()
        finally:
            self._kill_all()
            self._selector.close()
            restore()

    def _wait(self) -> None:
        for key, _ in self._selector.select(self.limits.tick):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._signals += os.read(key.fd, 64)
            else:
                self._hear(key.data, key.fd)

    def _hear(self, role: Role, fd: int) -> None:
        child = self._slots[role].child
        if child is None:
            return
        if fd == child.output.fd:
            for text in child.read_output():
                self.listener.line(role, text)
        else:
            for message in child.read_status():
                self._on_status(role, child, message)
        if (child.output if fd == child.output.fd else child.status).ended:
            self._selector.unregister(fd)  # a closed pipe is readable for ever

    def _on_status(self, role: Role, child: Child, message: dict[str, Any]) -> None:
        match message.get("event"):
            case "stage":
                self.listener.stage(role, message)
            case "ready":
                self._slots[role].was_ready = True
                if role == "engine" and isinstance(detail := message.get("detail"), dict):
                    self._detail = detail
            case "fatal":
                self.listener.line(role, f"fatal: {message.get('what')}")

    def _announce(self) -> None:
        if self._announced or self._stopping is not None:
            return
        children = [slot.child for slot in self._slots.values()]
        if all(c is not None and c.ready for c in children) and self._probe():
            self._announced = self._served = True
            self.listener.ready(self._detail)

    # ------------------------------------------------------------ starting and failing

    def _start_due(self) -> None:
        if self._stopping is not None:
            return
        for role, slot in self._slots.items():
            if slot.child is None and slot.start_at is not None and time.monotonic() >= slot.start_at:
                slot.start_at = None
                slot.child = Child(role, slot.argv, pass_fds=slot.pass_fds)
                self._selector.register(slot.child.status.fd, selectors.EVENT_READ, role)
                self._selector.register(slot.child.output.fd, selectors.EVENT_READ, role)
                self.listener.started(role, slot.child.pid)

    def _check_exits(self) -> None:
        for role, slot in self._slots.items():
            if slot.child is not None and slot.child.exited():
                self._collect(role, slot, slot.child, slot.child.how_it_ended())

    def _check_hangs(self) -> None:
        if self._stopping is not None:
            return
        away = time.monotonic() - self._looked - 2 * self.limits.tick
        self._looked = time.monotonic()
        for role, slot in self._slots.items():
            if slot.child is not None and away > 0:
                slot.child.excuse(away)
            elif slot.child is not None and (reason := self._hang(slot.child)):
                child = slot.child
                child.kill()
                child.wait()
                self._collect(role, slot, child, f"was killed: {reason}")

    def _hang(self, child: Child) -> str | None:
        """Why the child counts as hung. What it said is read before this is asked."""
        now, limits = time.monotonic(), self.limits
        if child.heard is None:
            if not child.ready and now - max(child.started, child.progressed) > limits.first_sign:
                return f"it said nothing for {limits.first_sign:.0f} s"
            return None
        if now - child.heard > limits.heartbeat:
            return f"no heartbeat for {limits.heartbeat:.0f} s"
        if child.expected_s > 0 and now - child.progressed > child.expected_s + limits.margin:
            return f"phase {child.phase!r} made no progress for {now - child.progressed:.0f} s"
        return None

    def _collect(self, role: Role, slot: _Slot, child: Child, how: str) -> None:
        """A child has ended: take its last words, then restart it, give up, or go on stopping."""
        for message in child.read_status():
            self._on_status(role, child, message)
        for text in child.read_output():
            self.listener.line(role, text)
        for lines in (child.status, child.output):
            with contextlib.suppress(KeyError):
                self._selector.unregister(lines.fd)
        child.close()
        slot.child = None
        if self._stopping is not None:
            return
        self._announced = False
        self.listener.line("supervisor", f"{role} (pid {child.pid}) {how}")
        now = time.monotonic()
        slot.failures = [t for t in slot.failures if now - t < self.limits.restart_window] + [now]
        if not slot.was_ready:
            raise self._give_up(role, child, how, f"the {role} didn't start")
        if len(slot.failures) > self.limits.restart_max:
            raise self._give_up(role, child, how, self._too_often(role, len(slot.failures)))
        first, last = self.limits.backoff
        delay = min(last, first * 2 ** (len(slot.failures) - 1))
        slot.start_at = now + delay
        self.listener.failed(role, how, delay, len(slot.failures))

    def _too_often(self, role: Role, failures: int) -> str:
        if self.limits.restart_max == 0:
            return f"the {role} ended"
        return f"the {role} ended {failures} times within {self.limits.restart_window:.0f} s"

    def _give_up(self, role: Role, child: Child, how: str, what: str) -> ProcessFailed:
        if child.fatal is None:
            return ProcessFailed(DeploykitError(what, why=f"the {role} process {how}"), child.tail)
        fatal = {k: str(v) for k, v in child.fatal.items() if k in ("what", "where", "why", "fix")}
        code = child.fatal.get("exit_code")
        error = DeploykitError(
            fatal.get("what", what),
            where=fatal.get("where"),
            why=fatal.get("why"),
            fix=fatal.get("fix"),
            exit_code=code if isinstance(code, int) and 0 < code < 256 else EXIT_FAILURE,
        )
        return ProcessFailed(error, () if error.fix else child.tail)

    # ------------------------------------------------------------ stopping

    def _catch_signals(self) -> Callable[[], None]:
        """Signals become bytes in a pipe that the selector watches, so that none is lost and none interrupts."""
        if self._control_fd is not None:
            self._selector.register(self._control_fd, selectors.EVENT_READ, None)
            return lambda: None
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        old_wakeup = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        old = {s: signal.signal(s, lambda *_: None) for s in (*_STOP_SIGNALS, signal.SIGCHLD)}
        self._selector.register(read_fd, selectors.EVENT_READ, None)

        def restore() -> None:
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in old.items():
                signal.signal(number, handler)
            os.close(read_fd)
            os.close(write_fd)

        return restore

    def _handle_signal(self, number: int) -> bool:
        """The first one drains. True for a second one: end at once."""
        if number not in _STOP_SIGNALS:  # SIGCHLD, or one that somebody else handles: it only woke the loop
            return False
        if self._stopping is not None:
            return True
        self._begin_stop(signal.Signals(number))
        return False

    def _begin_stop(self, number: signal.Signals) -> None:
        self._stopping = number
        self._stop_deadline = time.monotonic() + self.limits.drain + self.limits.drain_margin
        self.listener.draining()
        if (front := self._child("front")) is not None:
            front.terminate()

    def _check_owner(self) -> None:
        if self._owner_fd is None or self._stopping is not None:
            return
        if _reader_gone(self._owner_fd):
            self._begin_stop(signal.SIGTERM)

    def _stopped(self) -> bool:
        """One look at a stop under way: the front goes first, then the engine."""
        front, engine = self._child("front"), self._child("engine")
        now = time.monotonic()
        if front is not None:
            if now > self._stop_deadline:
                self.listener.line("supervisor", "the front did not drain in time and is killed")
                front.kill()
                self._stop_deadline = now + self.limits.stop
            return False
        if engine is None:
            return True
        if not self._engine_told:
            self._engine_told = True
            self._stop_deadline = now + self.limits.stop
            engine.terminate()
        elif now > self._stop_deadline:
            engine.kill()
        return False

    def _child(self, role: Role) -> Child | None:
        slot = self._slots.get(role)
        return slot.child if slot is not None else None

    def _exit_code(self) -> int:
        interrupted = self._stopping is signal.SIGINT and not self._served
        return EXIT_INTERRUPTED if interrupted else EXIT_OK

    def _kill_all(self) -> None:
        children = [slot.child for slot in self._slots.values() if slot.child is not None]
        for child in children:
            child.kill()
        for child in children:
            child.wait()
            child.close()


def _reader_gone(fd: int) -> bool:
    import select

    poller = select.poll()
    poller.register(fd, 0)
    return bool(poller.poll(0))
