"""`deploykit logs`: what a deployment's processes wrote."""

from __future__ import annotations

from typing import Annotated

import typer

from deploykit.cli._names import find
from deploykit.cli._output import safe
from deploykit.errors import ConfigError


def logs(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A deployment; may be left out where there is one.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with new lines until it ends.")
    ] = False,
    lines: Annotated[
        int, typer.Option("-n", "--lines", metavar="N", min=0, help="How many lines from the end.")
    ] = 100,
) -> None:
    """Show a deployment's log: its own lines, the engine's and the front's."""
    from deploykit.supervise.log import follow as follow_log
    from deploykit.supervise.log import tail
    from deploykit.supervise.state import log_path, read

    chosen = name if name is not None else _only()
    find(chosen)
    path = log_path(chosen)

    def running() -> bool:
        state = read(chosen)
        return state is not None and state.live

    for line in follow_log(path, lines, running) if follow else tail(path, lines):
        print(safe(line), flush=follow)


def _only() -> str:
    from deploykit.supervise.state import read_all

    states = read_all()
    live = [s.name for s in states if s.live]
    if len(live) == 1:
        return live[0]
    if not live and states:
        return states[-1].name
    raise ConfigError(
        "which deployment?" if live else "there is no deployment",
        why=f"these run: {', '.join(live)}" if live else None,
        fix=f"deploykit logs {live[0]}" if live else "start one: deploykit up smollm2-135m",
    )
