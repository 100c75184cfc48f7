"""`deploykit ps`: the deployments of this user."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploykit.cli._output import safe, uptime

if TYPE_CHECKING:
    from deploykit.supervise.state import DeploymentState

_HEADER = ("NAME", "STATUS", "URL", "ENGINE", "PID", "UPTIME")


def ps(
    all_: Annotated[bool, typer.Option("-a", "--all", help="Stopped ones too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list, for programs.")] = False,
) -> None:
    """List the deployments that run, and those that failed."""
    from deploykit.supervise.state import read_all

    states = [s for s in read_all() if all_ or s.status != "stopped"]
    if as_json:
        print(json.dumps([_entry(s) for s in states], indent=2))
        return
    rows = [_HEADER, *(_row(s) for s in states)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(state: DeploymentState) -> tuple[str, ...]:
    engine = "/".join(filter(None, (state.engine, state.device)))
    live = state.live
    return (
        state.name,
        _status(state),
        safe(state.url) if live else "-",
        engine or "-",
        str(state.pid) if live else "-",
        uptime(state.started) if live else "-",
    )


def _status(state: DeploymentState) -> str:
    if state.status == "failed":
        return f"failed ({state.exit_code if state.exit_code is not None else 'killed'})"
    if state.status == "starting" and state.stage:
        return f"starting ({safe(state.stage)})"
    return state.status


def _entry(state: DeploymentState) -> dict[str, Any]:
    """What programs may rely on."""
    return {
        "name": state.name,
        "status": state.status,
        "url": state.url,
        "target": state.target,
        "engine": state.engine,
        "device": state.device,
        "pid": state.pid if state.live else None,
        "engine_pid": state.engine_pid if state.live else None,
        "front_pid": state.front_pid if state.live else None,
        "restarts": state.restarts,
        "started": state.started,
        "uptime": round(time.time() - state.started, 3) if state.live else None,
        "stage": state.stage or None,
        "exit_code": state.exit_code,
        "error": state.error,
        "private": state.private,
    }
