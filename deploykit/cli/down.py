"""`deploykit down`: drain and stop deployments."""

from __future__ import annotations

from typing import Annotated

import typer

from deploykit.cli._names import find
from deploykit.errors import EXIT_FAILURE, EXIT_OK, ConfigError


def down(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Deployments to stop.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every one of them.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Don't wait for running requests.")] = False,
) -> int:
    """Drain and stop deployments: running requests finish first.

    Returns when they have ended. One that doesn't run any more is forgotten, its log with it.
    """
    from deploykit.supervise.state import read_all
    from deploykit.supervise.stop import stop

    if all_ and names:
        raise ConfigError("give names or --all, not both", fix="leave one of them out")
    if all_:
        states = [s for s in read_all() if s.live]
        if not states:
            print("nothing runs")
    elif names:
        states = [find(name) for name in dict.fromkeys(names)]
    else:
        running = [s.name for s in read_all() if s.live]
        if not running:
            raise ConfigError("nothing runs", fix="`deploykit ps --all` lists what ran before")
        raise ConfigError(
            "which deployment?",
            why=f"these run: {', '.join(running)}",
            fix=f"deploykit down {running[0]}" if len(running) == 1 else "name it, or give --all",
        )
    code = EXIT_OK
    for state, outcome in stop(states, now=now):
        print(f"{state.name}: {outcome.text}", flush=True)
        if not outcome.ended:
            code = EXIT_FAILURE
    return code
