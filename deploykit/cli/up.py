"""`deploykit up`: serve a target, here or in the background."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.cli._options import Profiles, Sets
from deploykit.cli._output import StageDisplay, stage_display
from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.deployment.stage import Report, Stage
    from deploykit.recipe import LoadedRecipe


def up(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A recipe, the name of a shipped one, a model folder, a .gguf file, a hub id, or - for stdin.",
            show_default=False,
        ),
    ],
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Run in the background.")] = False,
    wait: Annotated[
        bool | None,
        typer.Option("--wait/--no-wait", help="With -d: return when it serves (the default), or at once."),
    ] = None,
    wait_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0.0, help="With -d: how long to wait for it; no limit by default."
        ),
    ] = None,
    sets: Sets = None,
    profiles: Profiles = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0 takes any free one."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on the disk.")] = False,
    locked: Annotated[
        bool,
        typer.Option("--locked", help="Demand the recipe's lock: that commit, those files, or an error."),
    ] = False,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process", help="Engine and server in this one process, for a debugger; no restarts."
        ),
    ] = False,
) -> int:
    """Serve a model at an OpenAI-compatible endpoint.

    Ctrl-C drains: running requests finish, then it ends. A second Ctrl-C ends it at once.
    """
    if not detach and (wait is not None or wait_timeout is not None):
        raise ConfigError("--wait, --no-wait and --wait-timeout go with --detach", fix="add -d")
    if wait is False and wait_timeout is not None:
        raise ConfigError("--wait-timeout and --no-wait exclude each other", fix="leave one out")
    if in_process and detach:
        raise ConfigError("--in-process and --detach exclude each other", fix="leave one out")
    overrides = [*(sets or []), *([f"server.port={port}"] if port is not None else [])]
    display = stage_display(sys.stdout)
    with contextlib.closing(display):
        if detach:
            return _background(
                target, overrides, profiles or [], offline, locked, wait is not False, wait_timeout, display
            )
        return _foreground(
            target, overrides, profiles or [], offline, display, locked=locked, in_process=in_process
        )


def _foreground(
    target: str,
    sets: list[str],
    profiles: list[str],
    offline: bool,
    display: StageDisplay,
    *,
    locked: bool,
    in_process: bool,
) -> int:
    from deploykit.supervise.run import Serve, open_deployment, run

    serve: Serve | None = None
    if in_process:
        from deploykit.cli._in_process import NO_TIMEOUT, serve_in_process

        sets, serve = [*NO_TIMEOUT, *sets], serve_in_process
    opened = open_deployment(target, sets=sets, profiles=profiles, locked=locked, report=display.report)
    url, loaded = opened.url, opened.loaded

    def report(stage: Stage) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone doesn't end the deployment
            display.report(stage)
            if stage.name == "ready":
                _say_how(loaded, url, "Ctrl-C drains and stops it; again: at once.")

    return run(opened, report=report, offline=offline, serve=serve)


def _background(
    target: str,
    sets: list[str],
    profiles: list[str],
    offline: bool,
    locked: bool,
    wait: bool,
    timeout: float | None,
    display: StageDisplay,
) -> int:
    from deploykit.supervise.launch import launch

    report: Report = display.report
    with launch(
        target, sets=sets, profiles=profiles, offline=offline, locked=locked, report=report
    ) as launched:
        name = launched.name
        if not wait:
            print(
                f"{name} starts in the background: `deploykit ps` shows it, `deploykit logs {name} -f` follows it"
            )
            return 0
        try:
            launched.wait_ready(report, timeout)
        except KeyboardInterrupt:
            display.close()
            print(
                f"{name} goes on starting in the background; `deploykit down {name}` stops it",
                file=sys.stderr,
            )
            raise
        _say_how(
            launched.loaded, launched.url, f"It runs in the background: `deploykit down {name}` stops it."
        )
    return 0


def _say_how(loaded: LoadedRecipe, url: str, end: str) -> None:
    from deploykit.supervise.run import curl_line

    server = loaded.recipe.server
    model = server.model_names[0] if server.model_names else loaded.name
    print()
    print(f"  endpoint  {url}/v1   model {model}")
    print(f"  try       {curl_line(url, model=model, key=bool(server.api_keys))}")
    print(f"  talk      deploykit chat {url}")
    print(f"  {end}", flush=True)
