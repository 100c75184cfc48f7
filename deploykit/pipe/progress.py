"""What a person sees on a terminal while a pipe is made, and while a big batch runs."""

from __future__ import annotations

import sys
from types import TracebackType

from deploykit.deployment.stage import Stage

BIG_BATCH = 16  # prompts


def wanted(progress: bool | None) -> bool:
    """None = where somebody looks."""
    return sys.stderr.isatty() if progress is None else progress


class StartProgress:
    """One line that changes while the pipe is made, and goes when it is there."""

    def __init__(self, show: bool) -> None:
        self._status = None
        if show:
            from rich.console import Console

            self._status = Console(stderr=True).status("")

    def report(self, stage: Stage) -> None:
        if self._status is None:
            return
        from rich.text import Text

        share = f" {stage.fraction:.0%}" if stage.fraction is not None else ""
        self._status.update(Text(f"{stage.name}{share} {stage.detail}".rstrip()))

    def __enter__(self) -> StartProgress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()


class BatchProgress:
    """A bar over a batch's prompts, with the tokens of its answers."""

    def __init__(self, total: int, show: bool) -> None:
        self._bar = None
        if not show or total < BIG_BATCH:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("prompts"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tokens]} tokens, {task.fields[rate]:.0f} tokens/s"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total, tokens=0, rate=0.0)

    @property
    def shown(self) -> bool:
        return self._bar is not None

    def update(self, ended: int, tokens: int) -> None:
        if self._bar is not None:
            seconds = self._bar.tasks[0].elapsed or 0.0
            rate = tokens / seconds if seconds > 0 else 0.0
            self._bar.update(self._task, completed=ended, tokens=tokens, rate=rate)

    def __enter__(self) -> BatchProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
