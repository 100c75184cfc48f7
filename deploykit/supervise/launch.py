"""Start a deployment in the background: to stay (`up -d`), or private to one client and ended with it (`chat`)."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO

from deploykit.deployment.stage import Report, Stage, ignore
from deploykit.errors import DeploykitError
from deploykit.recipe import LoadedRecipe
from deploykit.recipe.files import STDIN, stdin_bytes
from deploykit.supervise import state as states
from deploykit.supervise.events import parse
from deploykit.supervise.log import tail
from deploykit.supervise.process import Lines, child_env, python_module
from deploykit.supervise.run import Opened, open_deployment
from deploykit.supervise.types import ProcessFailed

_PRIVATE = ("server.host=127.0.0.1", "server.port=0", "server.api_keys=[]", "server.drain_timeout=1")


class Launched:
    """A supervisor in the background, as seen by the process that started it."""

    def __init__(
        self, opened: Opened, process: subprocess.Popen[bytes], events_fd: int, private: bool
    ) -> None:
        self.loaded = opened.loaded
        self.name = opened.loaded.name
        self.model = (opened.loaded.recipe.server.model_names or [self.name])[0]
        self.url = opened.url
        self._process = process
        self._events = Lines(events_fd)
        self._private = private

    def wait_ready(self, report: Report = ignore, timeout: float | None = None) -> None:
        """Pass its stages on until it serves.

        Raises DeploykitError when it fails (ProcessFailed, with the last log lines) or isn't ready in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._events.fd, selectors.EVENT_READ)
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise DeploykitError(
                        f"deployment {self.name} isn't ready after {timeout:g} s",
                        why="it is still starting, in the background",
                        fix=f"follow it: deploykit logs {self.name} -f; stop it: deploykit down {self.name}",
                    )
                if not selector.select(left):
                    continue
                for event in map(parse, self._events.read()):
                    if isinstance(event, DeploykitError):
                        raise event
                    if event is not None:
                        report(event)
                        if _serves(event):
                            return
                if self._events.ended:
                    raise self._vanished()

    def _vanished(self) -> DeploykitError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        folder = states.folder_of(self.name)
        lines = [*tail(states.log_path(self.name), 20), *tail(folder / "supervisor.err", 20)]
        state = states.read(self.name)
        if state is not None and state.status == "stopped":
            return DeploykitError(f"deployment {self.name} was stopped before it was ready")
        return ProcessFailed(DeploykitError(f"deployment {self.name} ended before it was ready"), lines)

    def close(self) -> None:
        """Stop watching. A private deployment drains and ends, and nothing of it is left; others go on."""
        self._events.close()
        if not self._private:
            return
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its children end with it
            self._process.wait()
        with contextlib.suppress(DeploykitError):
            states.forget(self.name)

    def __enter__(self) -> Launched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def launch(
    target: str,
    *,
    sets: Sequence[str] = (),
    profiles: Sequence[str] = (),
    offline: bool = False,
    locked: bool = False,
    private: bool = False,
    report: Report = ignore,
) -> Launched:
    """Start `target` in the background and return at once: its recipe is valid, its name and port are taken.

    A private one listens on any free loopback port, asks for no key, and ends when `close` is called or this
    process dies. Raises what `open_deployment` raises (exit 2).
    """
    if private:
        sets = [*sets, *_PRIVATE, f"name=private-{os.getpid()}"]
    opened = open_deployment(target, sets=sets, profiles=profiles, locked=locked, report=report)
    read_fd, write_fd = os.pipe()
    try:
        process = _spawn(opened, target, sets, profiles, offline, locked, private, write_fd)
        return Launched(opened, process, read_fd, private)
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
        opened.close()  # the supervisor has its own copies


def _spawn(
    opened: Opened,
    target: str,
    sets: Sequence[str],
    profiles: Sequence[str],
    offline: bool,
    locked: bool,
    private: bool,
    events_fd: int,
) -> subprocess.Popen[bytes]:
    listen_fd = opened.listener.fileno()
    command = [
        *python_module("deploykit.supervise.detached"),
        f"--target={target}",
        *(f"--set={item}" for item in sets),
        *(f"--profile={name}" for name in profiles),
        f"--listen-fd={listen_fd}",
        f"--lock-fd={opened.lock_fd}",
        f"--events-fd={events_fd}",
        *(["--offline"] if offline else []),
        *(["--locked"] if locked else []),
        *(["--private"] if private else []),
    ]
    with open(states.folder_of(opened.loaded.name) / "supervisor.err", "wb") as errors:
        return subprocess.Popen(
            command,
            stdin=_stdin(opened.loaded),
            stdout=errors,
            stderr=errors,
            pass_fds=(listen_fd, opened.lock_fd, events_fd),
            start_new_session=True,
            env=child_env(),
        )


def _stdin(loaded: LoadedRecipe) -> int | IO[bytes]:
    """What the supervisor reads on stdin: nothing, or once more the recipe that came there."""
    if loaded.path != STDIN:
        return subprocess.DEVNULL
    file = tempfile.TemporaryFile()  # noqa: SIM115 - open until the child has it
    file.write(stdin_bytes())
    file.seek(0)
    return file


def _serves(event: Stage) -> bool:
    return event.name == "ready" and event.state == "done"
