"""`deploykit convert FOLDER [OUT]`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.cli._options import Json
from deploykit.cli._output import stage_display
from deploykit.errors import EXIT_OK, ConfigError

if TYPE_CHECKING:
    from deploykit.checkpoint.convert_pickled import Converted


def convert(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A model in .bin files, or in Meta's consolidated.NN.pth.")
    ],
    out: Annotated[
        str | None,
        typer.Argument(metavar="OUT", help="The folder to make; default: FOLDER-safetensors beside it."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="SECONDS", min=1, help="Stop after this time; default: by the size."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            metavar="TOKENS",
            min=1,
            help="Meta's layout: the trained length, where it isn't the usual one.",
        ),
    ] = None,
    json_: Json = False,
) -> int:
    """Make safetensors of a model whose weights are pickles (.bin, .pth).

    A pickle can run code when it is loaded: it is read by a process of its own that has no network, writes nothing
    but OUT, and takes tensors alone. OUT appears when it is whole.
    """
    from deploykit.checkpoint.convert_pickled import convert_pickled
    from deploykit.deployment.stage import stage
    from deploykit.hub.disk import size_text

    source = Path(folder).expanduser()
    if not source.is_dir():
        fix = "give the folder that the .bin files are in; `deploykit pull ID --allow-bin` fetches one from a hub"
        raise ConfigError("there is no such folder", where=folder, fix=fix)
    display = stage_display()
    try:
        with stage("convert", display.report) as running:

            def on_progress(done: int, total: int) -> None:
                share = min(done / total, 1.0) if total else None
                running.progress(f"{size_text(done)} of {size_text(total)}", share)

            made = convert_pickled(
                source,
                None if out is None else Path(out),
                timeout=timeout,
                context=context,
                progress=on_progress,
            )
            running.detail = (
                f"{made.tensors} tensors, {size_text(made.bytes)}; limited by {', '.join(made.limits)}"
            )
    finally:
        display.close()
    _print(made, json_)
    return EXIT_OK


def _print(made: Converted, json_: bool) -> None:
    import shlex

    import msgspec

    if json_:
        typer.echo(msgspec.json.encode(made).decode())
    else:
        typer.echo(f"{made.path}\n`deploykit up {shlex.quote(made.path)}` serves it")
