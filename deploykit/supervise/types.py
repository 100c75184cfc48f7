"""What the supervisor is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deploykit.errors import DeploykitError

Role = Literal["engine", "front"]


@dataclass(frozen=True)
class Limits:
    """All in seconds. Those of `restart` and `drain` come from the recipe."""

    restart_max: int = 5
    restart_window: float = 600.0
    drain: float = 30.0  # the front ends its streams by itself within this
    backoff: tuple[float, float] = (1.0, 30.0)  # first, doubling to last
    first_sign: float = 60.0  # from the start of a process to its first status line
    heartbeat: float = 15.0  # between two heartbeats
    margin: float = 10.0  # on top of what a phase expects to take
    drain_margin: float = 5.0  # on top of `drain`, before the front is killed
    stop: float = 3.0  # from SIGTERM to SIGKILL for the engine
    tick: float = 0.2


class ProcessFailed(DeploykitError):
    """A process ended and won't be started again; `tail` are the last lines that it wrote."""

    def __init__(self, error: DeploykitError, tail: Sequence[str]) -> None:
        super().__init__(
            error.what, where=error.where, why=error.why, fix=error.fix, exit_code=error.exit_code
        )
        self.tail = tuple(tail)


@dataclass
class Listener:
    """What the supervisor tells while it runs; every call must return soon and raise nothing."""

    line: Callable[[str, str], None] = lambda source, text: None  # a child's output, for the log
    stage: Callable[[Role, dict[str, Any]], None] = lambda role, message: None  # a child's stage line
    started: Callable[[Role, int], None] = lambda role, pid: None
    ready: Callable[[dict[str, Any]], None] = lambda detail: None  # serves, at first or again
    failed: Callable[[Role, str, float, int], None] = lambda role, how, delay, count: (
        None
    )  # will be restarted
    draining: Callable[[], None] = lambda: None
