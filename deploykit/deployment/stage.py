"""Stages of a start, as they are reported to whoever shows them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

State = Literal["start", "progress", "done", "failed", "interrupted"]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One report. `fraction` is 0..1 where it is known; `seconds` is set when the stage ends."""

    name: str  # recipe | weights | plan | load | engine | kv | warmup | ready, …
    state: State
    detail: str = ""
    fraction: float | None = None
    seconds: float | None = None


Report = Callable[[Stage], None]


def ignore(stage: Stage) -> None:
    """A report that nobody listens to."""


class Running:
    """A stage under way; `detail` is what its last line says."""

    def __init__(self, name: str, report: Report) -> None:
        self.name = name
        self.detail = ""
        self._report = report

    def progress(self, detail: str, fraction: float | None = None) -> None:
        self._report(Stage(name=self.name, state="progress", detail=detail, fraction=fraction))


@contextlib.contextmanager
def stage(name: str, report: Report, detail: str = "") -> Iterator[Running]:
    """Report start, and how it ended with the seconds it took: done, failed, or interrupted by a signal."""
    began = time.monotonic()
    running = Running(name, report)
    report(Stage(name=name, state="start", detail=detail))
    try:
        yield running
    except BaseException as error:
        state: State = "failed" if isinstance(error, Exception) else "interrupted"
        report(Stage(name=name, state=state, seconds=time.monotonic() - began))
        raise
    report(Stage(name=name, state="done", detail=running.detail, seconds=time.monotonic() - began))
