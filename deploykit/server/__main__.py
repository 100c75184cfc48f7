"""The front process: `python -m deploykit.server --spec FILE --fd N --status-fd M`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from deploykit.supervise.child import StatusWriter, bind_to_parent

log = logging.getLogger("deploykit.server")

CLOSE_TIMEOUT = 2  # seconds for answers that are written but not yet read, once the drain is over


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deploykit.server", description="The HTTP front of a deployment."
    )
    parser.add_argument("--spec", type=Path, required=True, help="ServeSpec as JSON")
    parser.add_argument("--fd", type=int, required=True, help="inherited listening socket")
    parser.add_argument("--status-fd", type=int, required=True, help="where status lines go")
    args = parser.parse_args(argv)
    status = bind_to_parent(args.status_fd)

    from deploykit.errors import DeploykitError

    try:
        return asyncio.run(serve(args.spec, args.fd, status))
    except DeploykitError as error:
        status.fatal(error.what, where=error.where, why=error.why, fix=error.fix, exit_code=error.exit_code)
        print(error, file=sys.stderr)
        return error.exit_code


async def serve(spec_path: Path, fd: int, status: StatusWriter) -> int:
    """Serve on the listening socket `fd`, which is taken over, until SIGTERM or SIGINT and the drain after it."""
    import msgspec
    import uvicorn

    from deploykit.errors import ConfigError
    from deploykit.server.app import make_app
    from deploykit.server.connection import connection_class
    from deploykit.server.service import Service
    from deploykit.server.spec import ServeSpec

    try:
        spec = msgspec.json.decode(spec_path.read_bytes(), type=ServeSpec)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigError(
            "the server's specification can't be read", where=str(spec_path), why=str(error)
        ) from None
    _start_log(spec.log_level)
    _raise_file_limit(spec.limits.max_connections)
    service = Service.from_spec(spec)
    try:
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError("the inherited socket can't be used", where=f"fd {fd}", why=str(error)) from None
    listener.setblocking(False)

    class Server(uvicorn.Server):
        """Signals are this module's: a drain comes before uvicorn's own shutdown."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            name = listener.getsockname()
            status.ready(host=str(name[0]), port=int(name[1]), pid=os.getpid())
            status.start_heartbeats(lambda: ("draining" if service.drain.started else "serving", 0.0, 0))

    config = uvicorn.Config(
        make_app(service),
        http=connection_class(spec.limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, math.ceil(spec.limits.idle_timeout)),
        timeout_graceful_shutdown=CLOSE_TIMEOUT,
    )
    server = Server(config)
    service.count_connections = lambda: len(server.server_state.connections)

    loop = asyncio.get_running_loop()
    drains: set[asyncio.Task[None]] = set()

    async def drain() -> None:
        log.info("draining: %d requests run, at most %g s", service.drain.running, spec.drain_timeout)
        whole = await service.drain.wait(spec.drain_timeout)
        log.info("drained" if whole else "drain_timeout is over: what still ran was cut off")
        server.should_exit = True

    def on_signal(number: int) -> None:
        if service.drain.started:
            os._exit(128 + number)  # asked twice: at once
        service.drain.begin()
        drains.add(loop.create_task(drain()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await server.serve(sockets=[listener])
    return 0


def _start_log(level: str) -> None:
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _raise_file_limit(connections: int) -> None:
    """Each connection is an open file; the usual soft limit of 1024 is below the default of connections."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * connections + 256
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
