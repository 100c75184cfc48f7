"""Stop deployments that other processes supervise."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploykit.errors import DeploykitError
from deploykit.supervise import state as states
from deploykit.supervise.osinfo import send_signal, start_identity
from deploykit.supervise.state import DeploymentState

_POLL = 0.05
_NOTICE = 5.0  # seconds in which a supervisor takes notice of a signal
_MOST = 24 * 3600 + 60  # seconds: the longest drain that a recipe may ask for, and the time to end


@dataclass(frozen=True)
class Outcome:
    text: str
    ended: bool


def stop(
    wanted: Sequence[DeploymentState], *, now: bool = False
) -> Iterator[tuple[DeploymentState, Outcome]]:
    """Tell all of them to drain, then wait for each. The supervisors bound the wait by their drain timeouts.

    `now` tells them twice, which ends them at once. One that has ended already is forgotten.
    """
    running = [s for s in wanted if s.live and send_signal(s.pid, s.start, signal.SIGTERM)]
    if now:
        for state in running:
            _until_draining(state)  # two signals that are pending together are one
            send_signal(state.pid, state.start, signal.SIGTERM)
    for state in wanted:
        yield state, _wait(state) if state in running else _forget(state)


def _until_draining(state: DeploymentState) -> None:
    deadline = time.monotonic() + _NOTICE
    while time.monotonic() < deadline:
        seen = states.read(state.name)
        if seen is None or not seen.live or seen.status == "draining":
            return
        time.sleep(_POLL)


def _wait(state: DeploymentState) -> Outcome:
    deadline = time.monotonic() + _MOST
    while start_identity(state.pid) == state.start:
        if time.monotonic() > deadline:
            return Outcome(f"still draining (pid {state.pid})", ended=False)
        time.sleep(_POLL)
    return Outcome("stopped", ended=True)


def _forget(state: DeploymentState) -> Outcome:
    """What a supervisor that was killed left behind goes too."""
    if state.runtime_dir:
        states.remove_runtime_dir(Path(state.runtime_dir))
    with contextlib.suppress(DeploykitError):  # it has just been started again
        states.forget(state.name)
        return Outcome("had ended already; forgotten", ended=True)
    return Outcome("is being started again", ended=False)
