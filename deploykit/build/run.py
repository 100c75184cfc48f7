"""Starting CMake and Ninja: every line into the log, progress out of it, and the first error of a failure."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

_STATUS = re.compile(r"^\[(\d+)/(\d+)\] ?(.*)$")
_OBJECT = re.compile(r"([\w./+-]+\.(?:cpp|cu|c|cc))(?:\.o|\.obj)?\b")
_ERROR = re.compile(
    r"(: (fatal )?error\b|: error |\berror:|undefined reference|undefined symbol|multiple definition"
    r"|CMake Error|ninja: error|Killed|No space left)"
)
_SHOWN_LINES = 12
_END_S = 10.0


def run_logged(
    command: Sequence[str],
    log: IO[str],
    *,
    line: Callable[[str], None] = lambda text: None,
    ended: Callable[[], None] = lambda: None,
    env: dict[str, str] | None = None,
) -> int:
    """Run `command`; each line of its output goes to the log and to `line`. The exit code.

    An exception here (Ctrl-C) ends Ninja, which ends its compilers and removes what they left half done. `ended` is
    called when that, or the ordinary end, is over; not where Ninja had to be killed. If this process is killed, Ninja
    ends at its next line, for nobody reads it any more.
    """
    log.write(f"$ {' '.join(command)}\n")
    log.flush()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {}), "LC_ALL": "C"},
        start_new_session=True,  # Ctrl-C comes to us, and we end it
    )
    try:
        for text in process.stdout or ():
            log.write(text)
            log.flush()
            line(text.rstrip("\n"))
        code = process.wait()
    except BaseException:
        if _end(process):
            ended()
        raise
    ended()
    return code


def _end(process: subprocess.Popen[str]) -> bool:
    """Whether it ended in order."""
    process.terminate()
    # Whatever it still prints must not block it.
    drain = threading.Thread(target=lambda: process.stdout and process.stdout.read(), daemon=True)
    drain.start()
    try:
        process.wait(_END_S)
        return True
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def parse_status(line: str) -> tuple[int, int, str] | None:
    """(done, total, what) of a line of Ninja's, `what` being the source where it names one."""
    match = _STATUS.match(line)
    if match is None:
        return None
    text = match[3]
    sources = _OBJECT.findall(text)
    return int(match[1]), int(match[2]), _short(sources[-1]) if sources else text.strip()


def _short(source: str) -> str:
    """An object's path as the source's: `cpu/CMakeFiles/room.dir/matmul/x.cpp` is `cpu/matmul/x.cpp`."""
    return re.sub(r"CMakeFiles/[^/]+\.dir/", "", source)


def first_error(text: str) -> str:
    """The first error in a build's output with what follows it, or its last lines where none is recognized."""
    lines = [line for line in text.splitlines() if line.strip()]
    for i, line in enumerate(lines):
        if _ERROR.search(line):
            end = next(
                (
                    j
                    for j in range(i + 1, min(i + _SHOWN_LINES, len(lines)))
                    if _STATUS.match(lines[j]) or lines[j].startswith(("FAILED:", "ninja: build stopped"))
                ),
                min(i + _SHOWN_LINES, len(lines)),
            )
            return "\n".join(lines[i:end])
    return "\n".join(lines[-_SHOWN_LINES:])


def tail_of(log: Path, start: int) -> str:
    """What was written into `log` from byte `start` on."""
    with contextlib.suppress(OSError), open(log, "rb") as f:
        f.seek(start)
        return f.read().decode(errors="replace")
    return ""
