"""The deployment's TCP socket: bound before anything loads, handed down to every front process."""

from __future__ import annotations

import errno
import socket

from deploykit.errors import ConfigError
from deploykit.supervise.osinfo import port_holders
from deploykit.supervise.state import find_by_pid

_BACKLOG = 1024  # connections that wait while the front process starts or restarts


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises ConfigError that names who holds a busy port."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{host!r} is no address of this machine",
            where="server.host",
            why=str(error),
            fix="use 127.0.0.1, or the address that others reach this machine by",
        ) from None
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _refusal(host, port, str(address[0]), error) from None
    return listener


def reachable(host: str) -> str:
    """The address under which this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def url_of(host: str, listener: socket.socket) -> str:
    """The URL under which this machine reaches the socket."""
    name = reachable(host)
    return f"http://{f'[{name}]' if ':' in name else name}:{listener.getsockname()[1]}"


def _refusal(host: str, port: int, address: str, error: OSError) -> ConfigError:
    where = f"server.host: {host}, server.port: {port}"
    if error.errno == errno.EADDRINUSE:
        why, fix = _who(address, port)
        return ConfigError(f"port {port} is already in use", where=where, why=why, fix=fix)
    if error.errno == errno.EACCES:
        fix = "use a port from 1024 up" if port < 1024 else "check what the system lets this user bind"
        return ConfigError(f"this user may not bind port {port}", where=where, why=str(error), fix=fix)
    if error.errno == errno.EADDRNOTAVAIL:
        fix = "use 127.0.0.1, 0.0.0.0, or one of the addresses that `ip addr` shows"
        return ConfigError(f"{host} is no address of this machine", where=where, why=str(error), fix=fix)
    return ConfigError(f"can't listen on {host} port {port}", where=where, why=str(error))


def _who(address: str, port: int) -> tuple[str, str]:
    """Why a port is busy, and what to do about it."""
    other = "choose another port with --port N (0 takes any free one)"
    holders = port_holders(address, port)
    for holder in holders:
        if holder.pid is not None and (found := find_by_pid(holder.pid)):
            return (
                f"deployment {found.name} holds it (pid {holder.pid}, {holder.command})",
                f"stop it with `deploykit down {found.name}`, or {other}",
            )
    if not holders:
        return "another process holds it", other
    holder = holders[0]
    if holder.pid is None:
        return f"a process of user {holder.user} holds it", other
    return f"process {holder.pid} of user {holder.user} holds it: {holder.command}", f"stop it, or {other}"
