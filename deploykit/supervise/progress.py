"""What the children report, as stages that a person can follow."""

from __future__ import annotations

import time
from typing import Any

from deploykit.deployment.stage import Report, Stage
from deploykit.plan.text import format_bytes, format_count
from deploykit.plan.types import Plan
from deploykit.supervise.types import Role

# The engine's own names -> ours: its "weights" are read into memory, ours are fetched to the disk.
_ENGINE_STAGES = {"weights": "load", "engine": "engine", "kv": "kv", "warmup": "warmup"}


class Progress:
    """Turns status lines of the engine into stages, each ended when the next one begins."""

    def __init__(self, plan: Plan, url: str, report: Report, began: float) -> None:
        self._plan = plan
        self._url = url
        self._report = report
        self._began = began
        self._current: str | None = None
        self._since = 0.0
        self._served = False

    def started(self, role: Role) -> None:
        """A process was started: until the engine says more, it is on its way to load the weights."""
        if role == "engine" and not self._served:
            self._begin("load")

    def stage(self, role: Role, message: dict[str, Any]) -> None:
        """A stage line of a child. After the first readiness a restart is reported as a whole, not by its stages."""
        name = _ENGINE_STAGES.get(str(message.get("stage")))
        if role != "engine" or name is None or self._served:
            return
        self._begin(name)
        fraction = message.get("fraction")
        self._report(
            Stage(
                name=name,
                state="progress",
                detail=str(message.get("detail", "")),
                fraction=float(fraction) if isinstance(fraction, int | float) else None,
            )
        )

    def ready(self, detail: dict[str, Any]) -> None:
        """The deployment serves: for the first time, or again."""
        if self._served:
            self._report(Stage(name="restart", state="done", detail=f"serving again at {self._url}"))
            return
        self._end()
        self._served = True
        self._report(Stage(name="memory", state="done", detail=self._memory(detail)))
        self._report(
            Stage(name="ready", state="done", detail=self._url, seconds=time.monotonic() - self._began)
        )

    def failed(self, role: Role, how: str, delay: float, count: int, most: int) -> None:
        """A process ended and will be started again."""
        detail = f"the {role} {how}; starting it again in {delay:g} s ({count} of {most})"
        self._report(Stage(name="restart", state="start", detail=detail))

    def draining(self) -> None:
        self._report(
            Stage(name="drain", state="start", detail="running requests finish, new ones are refused")
        )

    def stopped(self) -> None:
        self._report(Stage(name="drain", state="done", detail="stopped"))

    def _begin(self, name: str) -> None:
        if name != self._current:
            self._end()
            self._current, self._since = name, time.monotonic()
            self._report(Stage(name=name, state="start"))

    def _end(self) -> None:
        if self._current is not None:
            seconds = time.monotonic() - self._since
            self._report(Stage(name=self._current, state="done", seconds=seconds))
        self._current = None

    def _memory(self, detail: dict[str, Any]) -> str:
        blocks = detail.get("num_blocks")
        parts = []
        if isinstance(blocks, int):
            tokens = format_count(blocks * self._plan.block_len)
            parts.append(
                f"{format_count(blocks)} KV blocks, {tokens} tokens (planned {format_count(self._plan.num_blocks)})"
            )
        measured = detail.get("bytes_measured")
        if isinstance(measured, int) and measured > 0:
            predicted = detail.get("bytes_predicted") or self._plan.total_bytes
            parts.append(f"memory {format_bytes(measured)} measured, {format_bytes(predicted)} predicted")
        off = detail.get("head_error")
        if isinstance(off, float):
            parts.append(f"output head in int8, its weights off by {100 * off:.2f} %")
        return "; ".join(parts) or f"{format_count(self._plan.num_blocks)} KV blocks planned"
