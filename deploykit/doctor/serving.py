"""Checks of what a deployment takes from the machine: a port, folders, a socket."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

from deploykit.doctor.check import Context, Finding, ok
from deploykit.errors import DeploykitError
from deploykit.hardware.disk import existing_parent

DEFAULT_PORT = 23333


def port(context: Context) -> Finding:
    from deploykit.supervise.listen import bind

    if context.port == 0:
        return ok("any free port is taken")
    try:
        bind(context.host, context.port).close()
    except DeploykitError as error:
        return Finding("warn", error.what, error.why or "", error.fix or "")
    return ok(f"{context.host}:{context.port} is free")


def cache_folder(context: Context) -> Finding:
    return _writable(context.cache, "fetched and converted weights are kept there", "DEPLOYKIT_CACHE")


def state_folder(context: Context) -> Finding:
    return _writable(context.state, "running deployments are recorded there", "DEPLOYKIT_STATE")


def _writable(folder: Path, why: str, variable: str) -> Finding:
    """Write a nameless file there, or where the folder would be made."""
    there = existing_parent(folder)
    try:
        with tempfile.TemporaryFile(dir=there) as f:
            f.write(b"x")
            f.flush()
    except OSError as error:
        text = f"{folder} can't be written: {error.strerror or error}"
        return Finding("fail", text, why, f"make it writable, or set {variable} to another folder")
    return ok(str(folder) if there == folder else f"{folder} (will be made)")


def runtime_folder(context: Context) -> Finding:
    from deploykit.supervise.state import make_runtime_dir, remove_runtime_dir

    try:
        made = make_runtime_dir()
    except DeploykitError as error:
        return Finding("fail", error.what, error.why or "", error.fix or "")
    remove_runtime_dir(made)
    return ok(f"{made.parent}, short enough for a Unix socket")


def reach(context: Context) -> Finding:
    """How a server that listens on loopback is reached from where the person sits."""
    from deploykit.deployment.secrets import is_loopback

    port = context.port or DEFAULT_PORT
    if not is_loopback(context.host):
        return ok(f"http://{context.host}:{port} is open to other machines; clients need an API key")
    session = context.environ.get("SSH_CONNECTION", "").split()
    if len(session) != 4:
        return ok(
            f"http://127.0.0.1:{port} on this machine; for others, `ssh -L` or server.host with API keys"
        )
    option = "" if session[3] == "22" else f"-p {session[3]} "
    user = context.environ.get("USER") or context.environ.get("LOGNAME")
    there = f"{user}@{socket.gethostname()}" if user else socket.gethostname()
    note = (
        ""
        if context.port
        else " (the port is chosen at the start: put the one that `up` prints after 127.0.0.1:)"
    )
    return ok(
        f"this session is remote, and the server listens on this machine alone: on yours, run "
        f"`ssh {option}-N -L {port}:127.0.0.1:{port} {there}`{note} and open http://127.0.0.1:{port} there",
        f"if {socket.gethostname()} can't be found from there, its address in this session is {session[2]}",
    )
