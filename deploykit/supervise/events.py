"""What a supervisor in the background tells whoever started it: JSON lines in a pipe, for as long as it is read."""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec

from deploykit.deployment.stage import Stage
from deploykit.errors import DeploykitError
from deploykit.supervise.types import ProcessFailed

_PIPE_ATOMIC = 4096  # bytes that a pipe takes in one piece


class EventWriter:
    """Never blocks and never fails: the deployment goes on when nobody reads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)

    def stage(self, stage: Stage) -> None:
        self._write({"stage": msgspec.to_builtins(stage)})

    def failed(self, error: DeploykitError) -> None:
        fields = {k: getattr(error, k) for k in ("what", "where", "why", "fix", "exit_code")}
        tail = list(getattr(error, "tail", ()))
        while len(json.dumps({"failed": {**fields, "tail": tail}})) >= _PIPE_ATOMIC and tail:
            tail.pop(0)
        self._write({"failed": {**fields, "tail": tail}})

    def _write(self, event: dict[str, Any]) -> None:
        data = json.dumps(event).encode() + b"\n"
        try:
            os.write(self._fd, data)
        except OSError:
            return  # full: a progress line is lost; closed: nobody watches


def parse(line: bytes) -> Stage | DeploykitError | None:
    """The event that a line holds; None for a line that was cut."""
    try:
        event = json.loads(line)
        if "stage" in event:
            return msgspec.convert(event["stage"], type=Stage)
        failed = event["failed"]
        tail = failed.pop("tail", ())
        what = failed.pop("what")
        return ProcessFailed(DeploykitError(what, **failed), tail)
    except (ValueError, KeyError, TypeError, msgspec.ValidationError):
        return None
