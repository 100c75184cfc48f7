"""A program on a terminal of its own, typed at and read from."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

PATIENCE = 60.0  # seconds; a busy machine is no failure


class Terminal:
    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self.seen = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(cwd)
            os.execvpe(argv[0], list(argv), dict(env))

    def type(self, keys: str, until: str) -> str:
        """What the program shows after these keys, up to and with `until`."""
        os.write(self._fd, keys.encode())
        shown = ""
        deadline = time.monotonic() + PATIENCE
        while until not in shown:
            assert time.monotonic() < deadline, f"no {until!r} after {keys!r} in {shown!r}"
            if select.select([self._fd], [], [], 0.2)[0]:
                try:
                    shown += os.read(self._fd, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"it ended after {keys!r}: {shown!r}") from None
        self.seen += shown
        return shown

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.close(self._fd)
        os.waitpid(self._pid, 0)
