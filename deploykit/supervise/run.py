"""One deployment from its first line to its last, in the process that supervises it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deploykit.deployment.stage import Report, Stage
from deploykit.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, DeploykitError
from deploykit.fsutil import write_atomic
from deploykit.supervise import state as states
from deploykit.supervise.listen import bind, reachable, url_of
from deploykit.supervise.log import BoundedLog
from deploykit.supervise.probe import serves
from deploykit.supervise.process import python_module
from deploykit.supervise.progress import Progress
from deploykit.supervise.supervisor import Supervisor
from deploykit.supervise.types import Limits, Listener, Role

if TYPE_CHECKING:
    from deploykit.deployment.prepare import Prepared
    from deploykit.recipe import LoadedRecipe


class Terminated(BaseException):
    """SIGTERM or SIGHUP came while nothing runs yet."""


@dataclass
class Opened:
    """A deployment whose name and port are taken, before anything loads."""

    loaded: LoadedRecipe
    target: str
    listener: socket.socket
    lock_fd: int

    @property
    def url(self) -> str:
        return url_of(self.loaded.recipe.server.host, self.listener)

    def close(self) -> None:
        self.listener.close()
        os.close(self.lock_fd)


@dataclass(frozen=True)
class Inputs:
    """What the engine and the front are started with."""

    plan_file: Path
    spec_file: Path
    engine_socket: Path
    listening: socket.socket
    listener: Listener
    probe: Callable[[], bool]  # whether the two serve together


Serve = Callable[[Inputs], int]


def open_deployment(
    target: str, *, sets: Sequence[str], profiles: Sequence[str] = (), locked: bool = False, report: Report
) -> Opened:
    """Check the recipe, take the name, bind the port: each refused within a second (exit 2)."""
    from deploykit.deployment.target import load

    loaded = load(target, sets=sets, profiles=profiles, locked=locked, report=report)
    lock_fd = states.acquire(loaded.name)
    try:
        listener = bind(loaded.recipe.server.host, loaded.recipe.server.port)
    except BaseException:
        os.close(lock_fd)
        raise
    return Opened(loaded, absolute(target), listener, lock_fd)


def absolute(target: str) -> str:
    from deploykit.deployment.target import located

    return located(target)


def run(
    opened: Opened,
    *,
    report: Report,
    offline: bool = False,
    private: bool = False,
    owner_fd: int | None = None,
    serve: Serve | None = None,
) -> int:
    """Prepare, start, watch, until it ends. The exit code; DeploykitError when it could not start or go on.

    `serve` runs engine and front in another way than as supervised processes, and returns when they have ended.
    """
    name = opened.loaded.name
    record = states.StateFile(name, url=opened.url, target=opened.target, private=private)
    log = BoundedLog(states.log_path(name))
    log.write("supervisor", f"{name} starts from {opened.target} (pid {os.getpid()}) on {opened.url}")
    failed: DeploykitError | None = None
    code = EXIT_FAILURE
    try:
        with _signals(_terminate):
            code = _run(opened, record, log, _logged(report, log, record), offline, owner_fd, serve)
    except DeploykitError as error:
        failed = error
        raise
    except OSError as error:
        failed = DeploykitError(
            f"the system refused: {error.strerror or error}", where=error.filename and str(error.filename)
        )
        raise failed from None
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except Terminated:
        code = EXIT_OK
    except BaseException as error:
        failed = DeploykitError(f"{type(error).__name__}: {error}")
        raise
    finally:
        with _signals(signal.SIG_IGN):  # the end is short, and nothing may cut it off
            _close(opened, record, log, failed, failed.exit_code if failed else code)
    return code


def _close(
    opened: Opened, record: states.StateFile, log: BoundedLog, failed: DeploykitError | None, code: int
) -> None:
    """Leave nothing behind but the record and the log."""
    opened.listener.close()
    if record.state.runtime_dir:
        states.remove_runtime_dir(Path(record.state.runtime_dir))
    if failed:
        log.write("supervisor", f"failed: {failed}")
    log.write("supervisor", f"{opened.loaded.name} ended with exit code {code}")
    log.close()
    record.update(
        status="failed" if failed else "stopped",
        exit_code=code,
        error=failed.what if failed else None,
        stage="",
        runtime_dir=None,
        engine_pid=None,
        front_pid=None,
    )
    os.close(opened.lock_fd)


def _run(
    opened: Opened,
    record: states.StateFile,
    log: BoundedLog,
    report: Report,
    offline: bool,
    owner_fd: int | None,
    serve: Serve | None,
) -> int:
    from deploykit.deployment.prepare import prepare

    began = time.monotonic()
    prepared = prepare(opened.loaded, report=report, offline=offline)
    runtime = states.make_runtime_dir()
    record.update(runtime_dir=str(runtime), engine=prepared.plan.engine, device=prepared.plan.device)
    plan_file, spec_file = _write_inputs(prepared, runtime, opened.listener)
    server, listening_fd = opened.loaded.recipe.server, opened.listener.fileno()
    port = opened.listener.getsockname()[1]
    progress = Progress(prepared.plan, opened.url, report, began)
    listener = _listener(opened, record, log, progress)

    def probe() -> bool:
        return serves(reachable(server.host), port)

    if serve is not None:
        inputs = Inputs(plan_file, spec_file, runtime / "engine.sock", opened.listener, listener, probe)
        code = serve(inputs)
        progress.stopped()
        return code
    engine = [
        *python_module("deploykit.engine"),
        *("--plan", str(plan_file), "--socket", str(runtime / "engine.sock")),
    ]
    front = [
        *python_module("deploykit.server"),
        *("--spec", str(spec_file), "--fd", str(listening_fd)),
    ]
    supervisor = Supervisor(
        lambda fd: [*engine, "--status-fd", str(fd)],
        lambda fd: [*front, "--status-fd", str(fd)],
        listening_fd=listening_fd,
        limits=Limits(
            restart_max=server.restart.max, restart_window=server.restart.window, drain=server.drain_timeout
        ),
        listener=listener,
        probe=probe,
        owner_fd=owner_fd,
    )
    code = supervisor.run()
    progress.stopped()
    return code


def _write_inputs(prepared: Prepared, runtime: Path, listener: socket.socket) -> tuple[Path, Path]:
    plan_file, spec_file = runtime / "plan.json", runtime / "spec.json"
    spec = msgspec.structs.replace(
        prepared.serve, engine_socket=str(runtime / "engine.sock"), port=listener.getsockname()[1]
    )
    write_atomic(plan_file, msgspec.json.encode(prepared.plan), mode=0o600)
    write_atomic(spec_file, msgspec.json.encode(spec), mode=0o600)
    return plan_file, spec_file


def _listener(opened: Opened, record: states.StateFile, log: BoundedLog, progress: Progress) -> Listener:
    restart_max = opened.loaded.recipe.server.restart.max

    def started(role: Role, pid: int) -> None:
        log.write("supervisor", f"{role} started (pid {pid})")
        record.update(**{f"{role}_pid": pid})
        progress.started(role)

    def ready(detail: dict[str, Any]) -> None:
        record.update(status="ready", stage="", ready=record.state.ready or time.time())
        progress.ready(detail)

    def failed(role: Role, how: str, delay: float, count: int) -> None:
        restarts = record.state.restarts + 1
        record.update(status="restarting", restarts=restarts, **{f"{role}_pid": None})
        progress.failed(role, how, delay, count, restart_max)

    def draining() -> None:
        opened.listener.close()  # when the front closes its own, new connections are refused
        record.update(status="draining")
        progress.draining()

    return Listener(
        line=log.write,
        stage=progress.stage,
        started=started,
        ready=ready,
        failed=failed,
        draining=draining,
    )


def _logged(report: Report, log: BoundedLog, record: states.StateFile) -> Report:
    """Every stage goes to the log and the record too, progress only to whoever watches."""

    def both(stage: Stage) -> None:
        if stage.state != "progress":
            took = f" in {stage.seconds:.1f} s" if stage.seconds is not None else ""
            log.write("supervisor", f"{stage.name}: {stage.state}{took} {stage.detail}".rstrip())
        if stage.state == "start" and record.state.status == "starting":
            record.update(stage=stage.name)
        report(stage)

    return both


def _terminate(*_: object) -> None:
    raise Terminated


@contextlib.contextmanager
def _signals(handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    """SIGTERM and SIGHUP go to `handler`; SIGINT too where it ignores them (Python's own raises KeyboardInterrupt)."""
    numbers = [signal.SIGTERM, signal.SIGHUP, *([signal.SIGINT] if handler is signal.SIG_IGN else [])]
    old = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)


def curl_line(url: str, *, model: str, key: bool) -> str:
    """A request to try."""
    body = msgspec.json.encode(
        {"model": model, "messages": [{"role": "user", "content": "Say hello in five words."}]}
    ).decode()
    auth = ' -H "Authorization: Bearer $DEPLOYKIT_API_KEY"' if key else ""
    return f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{auth} -d {shlex.quote(body)}"
