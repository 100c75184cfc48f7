"""The record of a deployment on the disk: what `ps`, `logs` and `down` read, and who may run under a name.

`<state folder>/deployments/<name>/` holds `state.json`, `log`, the one log before it, and `lock`. The lock is held
for the supervisor's whole life and ends with it, however it ends; the record is believed only as far as that goes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from deploykit.errors import ConfigError
from deploykit.fsutil import state_dir, write_atomic
from deploykit.supervise.osinfo import start_identity

Status = Literal["starting", "ready", "restarting", "draining", "stopped", "failed"]
LIVE: tuple[Status, ...] = ("starting", "ready", "restarting", "draining")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_RUNTIME_PREFIX = "deploykit-"
_MAX_RUNTIME = 80  # bytes: a Unix socket's path ends at about 100


class DeploymentState(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment as last recorded; `status` is corrected by `read` when its supervisor is gone."""

    name: str
    pid: int  # supervisor
    start: str  # identity of that process: a number that the system gave to another one doesn't match
    status: Status
    url: str
    target: str  # as given to `up`, made absolute where it is a path
    started: float  # Unix seconds
    updated: float
    engine: str | None = None
    device: str | None = None
    stage: str = ""  # what it is doing while it starts
    ready: float | None = None  # Unix seconds of the first readiness
    engine_pid: int | None = None
    front_pid: int | None = None
    restarts: int = 0
    runtime_dir: str | None = None
    private: bool = False  # belongs to one client, such as a chat, and ends with it
    exit_code: int | None = None
    error: str | None = None  # one line, when it failed
    version: int = 1

    @property
    def live(self) -> bool:
        return self.status in LIVE


def deployments_dir() -> Path:
    return state_dir() / "deployments"


def folder_of(name: str) -> Path:
    """Where the deployment is recorded. Raises ConfigError for what can be no name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't be the name of a deployment",
            why="a name has 1 to 63 of a-z 0-9 . _ - and begins with a letter or a digit",
            fix="`deploykit ps --all` lists the names",
        )
    return deployments_dir() / name


def log_path(name: str) -> Path:
    return folder_of(name) / "log"


def acquire(name: str) -> int:
    """Take the name for this process and those that inherit the returned fd. ConfigError when it is in use."""
    import fcntl

    lock = folder_of(name) / "lock"
    try:
        while True:
            lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock.exists() and os.path.samestat(lock.stat(), os.fstat(fd)):
                    return fd
            except FileNotFoundError:
                pass  # forgotten between the two looks
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # a lock that was just forgotten: take its successor
    except BlockingIOError:
        state = read(name)
        if state is not None and state.live:
            why = f"{state.status} at {state.url}, pid {state.pid}, started from {state.target}"
        else:
            why = "another `up` of it has just begun"
        raise ConfigError(
            f"deployment {name} is already running",
            why=why,
            fix=f"stop it with `deploykit down {name}`, or give this one another name with --set name=OTHER",
        ) from None
    except OSError as error:
        raise _unwritable(lock, error) from None


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"deployment {path.parent.name} can't be recorded",
        where=str(path.parent),
        why=error.strerror or str(error),
        fix="make that folder writable, or point DEPLOYKIT_STATE at one that is",
    )


def read(name: str) -> DeploymentState | None:
    """The record, with a status that is true now. None when there is none, or none that can be read."""
    try:
        state = msgspec.json.decode((folder_of(name) / "state.json").read_bytes(), type=DeploymentState)
    except (OSError, msgspec.DecodeError):
        return None
    if state.live and start_identity(state.pid) != state.start:
        return msgspec.structs.replace(
            state, status="failed", error=state.error or "its supervisor was killed", stage=""
        )
    return state


def read_all() -> list[DeploymentState]:
    """All records, the newest last."""
    try:
        names = sorted(p.name for p in deployments_dir().iterdir() if _NAME.fullmatch(p.name))
    except OSError:
        return []
    return sorted((s for s in map(read, names) if s), key=lambda s: s.started)


def find_by_pid(pid: int) -> DeploymentState | None:
    """The running deployment that the process is part of."""
    return next((s for s in read_all() if s.live and pid in (s.pid, s.engine_pid, s.front_pid)), None)


def forget(name: str) -> None:
    """Remove the record and the logs of a deployment that doesn't run."""
    os.close(acquire(name))
    shutil.rmtree(folder_of(name), ignore_errors=True)


class StateFile:
    """The supervisor's own record, rewritten whole at every change."""

    def __init__(self, name: str, *, url: str, target: str, private: bool = False) -> None:
        self._path = folder_of(name) / "state.json"
        previous = read(name)
        if previous is not None and previous.runtime_dir:
            remove_runtime_dir(Path(previous.runtime_dir))  # left behind by a supervisor that was killed
        now = time.time()
        self.state = DeploymentState(
            name=name,
            pid=os.getpid(),
            start=start_identity(os.getpid()) or "",
            status="starting",
            url=url,
            target=target,
            started=now,
            updated=now,
            private=private,
        )
        try:
            self._write()
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def update(self, **changes: Any) -> None:
        """Record changes. A full disk costs the record, never the deployment."""
        self.state = msgspec.structs.replace(self.state, **changes, updated=time.time())
        with contextlib.suppress(OSError):
            self._write()

    def _write(self) -> None:
        write_atomic(self._path, msgspec.json.format(msgspec.json.encode(self.state)) + b"\n", mode=0o600)


def make_runtime_dir() -> Path:
    """A private folder (0700) with a path short enough for a Unix socket in it."""
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if base and len(os.fsencode(base)) + 24 <= _MAX_RUNTIME and os.access(base, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=_RUNTIME_PREFIX, dir=base))
    raise ConfigError(
        "there is no folder for the engine's socket",
        why="neither $XDG_RUNTIME_DIR nor $TMPDIR nor /tmp is a writable folder with a short path",
        fix="point TMPDIR at one",
    )


def remove_runtime_dir(path: Path) -> None:
    """Remove what `make_runtime_dir` made, and nothing else."""
    if path.name.startswith(_RUNTIME_PREFIX) and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
