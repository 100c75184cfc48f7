"""How the command line speaks: errors and stages, coloured on a terminal and plain in a pipe."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from deploykit.errors import DeploykitError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from deploykit.deployment.stage import Stage

# What a terminal would act on. Line feeds and tabs stay: texts have several lines.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

LABELS = {
    "recipe": "recipe valid",
    "headers": "headers",
    "weights": "weights",
    "plan": "plan",
    "native": "native library",
    "load": "weights loaded",
    "engine": "engine",
    "kv": "KV blocks",
    "warmup": "warm-up",
    "memory": "capacity",
    "ready": "ready",
    "restart": "restart",
    "drain": "draining",
}


def safe(text: str) -> str:
    """`text` with what a terminal would act on written as an escape."""
    return _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", text)


def coloured(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO) -> str:
    """`text` in an ANSI style where `stream` shows styles."""
    return f"\x1b[{code}m{text}\x1b[0m" if coloured(stream) else text


def print_error(error: DeploykitError) -> None:
    """What, where, why and fix on stderr; all diagnostics of a recipe; the last lines of a process that died."""
    err = sys.stderr
    if hasattr(error, "diagnostics"):
        _print_diagnostics(error)
        return
    for line in getattr(error, "tail", ()):
        print(paint(f"  | {safe(line)}", "2", err), file=err)
    print(f"{paint('error:', '1;31', err)} {paint(safe(error.what), '1', err)}", file=err)
    for label, text in (("where", error.where), ("why", error.why), ("fix", error.fix)):
        if text:
            body = safe(text).replace("\n", "\n" + " " * 9)
            print(f"  {paint(f'{label}:', '36', err)}{' ' * (6 - len(label))}{body}", file=err)


def fault_data(error: DeploykitError) -> dict[str, Any]:
    """An error for programs: its four texts."""
    return {key: getattr(error, key) for key in ("what", "where", "why", "fix")}


def print_error_json(error: DeploykitError) -> None:
    """The same for a program, one object on stdout: `errors` are a recipe's, as in `validate --format json`."""
    import json

    from deploykit.recipe.render import to_json

    fault = fault_data(error)
    if tail := getattr(error, "tail", ()):
        fault["tail"] = list(tail)
    found = [to_json(diagnostic) for diagnostic in getattr(error, "diagnostics", ())]
    print(json.dumps({"error": fault, "errors": found}, indent=2))


def _print_diagnostics(error: DeploykitError) -> None:
    if coloured(sys.stderr):
        from rich.console import Console

        from deploykit.recipe.render import render_rich

        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(render_rich(error.diagnostics))  # type: ignore[attr-defined]
    else:
        print(error, file=sys.stderr)


def stage_display(stream: TextIO | None = None) -> StageDisplay:
    """The display that fits the stream: a live one on a terminal, a line a stage elsewhere."""
    stream = stream or sys.stderr
    return LiveStages(stream) if coloured(stream) else StageDisplay(stream)


class StageDisplay:
    """One plain line for each stage that ends, and for each that takes notice of itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def report(self, stage: Stage) -> None:
        if stage.state == "progress" or (stage.state == "start" and not stage.detail):
            return
        print(_plain(stage), file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the stream as an ordinary one."""


class LiveStages(StageDisplay):
    """One line a stage: a spinner or a bar while it runs, a tick and the seconds when it is done."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._console: Console | None = None
        self._live: Progress | None = None
        self._task: int | None = None
        self._name = ""

    def report(self, stage: Stage) -> None:
        if stage.state == "progress":
            self._advance(stage)
            return
        self._stop()
        if stage.state == "start" and not stage.detail:
            self._start(stage)
        else:
            print(_styled(stage, self._stream), file=self._stream, flush=True)

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            self._stop()

    def _start(self, stage: Stage) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        if self._console is None:
            self._console = Console(file=self._stream, highlight=False)
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            Elapsed(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._name = stage.name
        self._task = self._live.add_task(_label(stage.name, stage.state), total=None, detail="")
        self._live.start()

    def _advance(self, stage: Stage) -> None:
        if self._live is None or self._task is None or stage.name != self._name:
            return
        detail = safe(stage.detail)
        if stage.fraction is None:
            self._live.update(self._task, detail=detail)  # type: ignore[arg-type]
        else:
            self._live.update(self._task, total=1.0, completed=stage.fraction, detail=detail)  # type: ignore[arg-type]

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = self._task = None


def _label(name: str, state: str = "done") -> str:
    """What a stage is called; of a recipe it isn't said before it is known that it is valid."""
    return "recipe" if name == "recipe" and state != "done" else LABELS.get(name, name)


def _mark(stage: Stage) -> str:
    return {"done": "✔", "failed": "✘", "interrupted": "✘", "start": "…"}.get(stage.state, " ")


def _took(stage: Stage) -> str:
    if stage.seconds is None:
        return ""
    return f"{stage.seconds * 1000:.0f} ms" if stage.seconds < 1 else f"{stage.seconds:.1f} s"


def _plain(stage: Stage) -> str:
    state = {"done": "ok", "start": "…"}.get(stage.state, stage.state)
    parts = [
        f"{_label(stage.name, stage.state)}: {state}",
        safe(stage.detail),
        f"({took})" if (took := _took(stage)) else "",
    ]
    return " ".join(p for p in parts if p)


def _styled(stage: Stage, stream: TextIO) -> str:
    colour = {"done": "32", "failed": "31"}.get(stage.state, "33")
    took = _took(stage)
    detail = "interrupted" if stage.state == "interrupted" else safe(stage.detail)
    line = f"{paint(_mark(stage), colour, stream)} {_label(stage.name, stage.state):<15} {detail}".rstrip()
    return f"{line} {paint(took, '2', stream)}" if took else line


def ago(seconds: float) -> str:
    """`3s`, `12m`, `5h`, `2d`: the largest unit alone."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def uptime(since: float) -> str:
    return ago(time.time() - since)
