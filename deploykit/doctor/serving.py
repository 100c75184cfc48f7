"""Checks of what a deployment takes from the machine: a port, folders, a socket."""

from __future__ import annotations

import tempfile
from pathlib import Path

from deploykit.doctor.check import Context, Finding, ok
from deploykit.errors import DeploykitError
from deploykit.hardware.disk import existing_parent


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
