"""A question to a process of its own: what hangs or crashes there leaves the doctor well."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_running: set[int] = set()  # process groups


@dataclass(frozen=True)
class Answer:
    """`problem` is None where the process ended by itself with code 0."""

    output: str
    problem: str | None


def ask(command: Sequence[str], *, limit_s: float, env: dict[str, str] | None = None) -> Answer:
    """Run `command` for `limit_s` seconds at most; it and everything it started is ended then. Never raises."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=env,
        )
    except OSError as error:
        return Answer("", f"{command[0]} can't be started: {error.strerror or error}")
    _running.add(process.pid)
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that nothing ends, in a driver
            process.communicate(timeout=0.5)
        return Answer("", f"no answer within {limit_s:g} s")
    finally:
        _running.discard(process.pid)
    return Answer(out.decode(errors="replace"), _problem(process.returncode, err))


def _problem(code: int, stderr: bytes) -> str | None:
    if code == 0:
        return None
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        if -code == signal.SIGILL:
            name += " (an instruction that this CPU doesn't have)"
        return f"the process ended with {name}"
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"the process ended with code {code}"


def _end(pid: int) -> None:
    """Its whole group, which `start_new_session` made."""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: Windows has no groups
        os.killpg(pid, signal.SIGKILL)


@atexit.register
def _end_all() -> None:
    """What a check that was left behind had started."""
    for pid in list(_running):
        _end(pid)
