"""A child process that answers JSON lines: one request, one reply."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from deploykit.errors import DeploykitError


class JsonChild:
    """A context manager that ends its process. `started` is when it was spawned, in `time.perf_counter()` seconds."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the process
        self.started = time.perf_counter()
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,  # the terminal's Ctrl-C is ours to handle
            env=env,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply. Raises DeploykitError with the child's own words where it fails or is gone."""
        stdin, stdout = self._popen.stdin, self._popen.stdout
        line = ""
        if stdin is not None and stdout is not None:
            try:
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
                line = stdout.readline()
            except BrokenPipeError:
                pass  # it is gone: said below
        if not line:
            why = f"exit code {self._popen.wait()}; its last words: {self._tail() or 'none'}"
            raise DeploykitError(f"{self.name} ended", why=why)
        try:
            reply = json.loads(line)
            event = reply["event"]
        except (ValueError, KeyError, TypeError):
            raise DeploykitError(f"{self.name} answered no event", why=repr(line[:200])) from None
        if event == "error":
            why = str(reply.get("what"))
            if reply.get("missing"):
                raise MissingPackageError(self.name, why)
            raise DeploykitError(f"{self.name} could not {request['op']}", why=why)
        return dict(reply)

    def _tail(self) -> str:
        self._stderr.seek(0)
        return " | ".join(self._stderr.read().decode(errors="replace").splitlines()[-5:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()  # the end of its input ends it
        try:
            self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        self._stderr.close()


class MissingPackageError(DeploykitError):
    """The child's interpreter has not what it needs."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} is not installed", why=why)
