"""`deploykit doctor`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.cli._options import Json, Profiles, Sets
from deploykit.errors import EXIT_FAILURE, EXIT_OK, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploykit.doctor import Report
    from deploykit.recipe import LoadedRecipe


def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="Also judge this recipe (- for stdin), model folder, GGUF file or hub id on this machine.",
            show_default=False,
        ),
    ] = None,
    set_: Sets = None,
    profile: Profiles = None,
    json_: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for a warning too.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write a report to pass on, without credentials and names. FILE must not exist.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="On a terminal too, show every check and every reason.")
    ] = False,
) -> int:
    """Examine this machine: what works, what doesn't, why it matters and how to fix it.

    Exit code 0: nothing failed. 1: something did (with --strict: or was warned about). 2: the recipe
    is wrong, or the report's file is there already.
    """
    from deploykit.deployment.target import open_target
    from deploykit.doctor import examine
    from deploykit.doctor.bundle import check_free

    if report is not None:
        check_free(report)  # before anything is looked at
    given = None
    if recipe is not None:
        given = open_target(recipe, sets=set_ or (), profiles=profile or ())
    elif set_ or profile:
        raise ConfigError(
            "--set and --profile are for a recipe", fix="name one: deploykit doctor RECIPE --profile NAME"
        )
    with _busy():
        found = examine(given)
    if json_:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        from deploykit.cli._doctor_output import print_report

        print_report(found, verbose=verbose)
    if report is not None:
        _write(found, given, report)
    bad = ("fail", "warn") if strict else ("fail",)
    return EXIT_FAILURE if found.status in bad else EXIT_OK


def _write(found: Report, given: LoadedRecipe | None, path: Path) -> None:
    from deploykit.doctor.bundle import write_report

    write_report(found, path, given=given)
    print(
        f"report written to {path}: credentials, user names, home folders and this machine's name are masked; "
        "read it before you pass it on",
        file=sys.stderr,
    )


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """A spinner on a terminal for as long as the examination takes."""
    from deploykit.cli._output import coloured

    if not coloured(sys.stderr):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("examining this machine"):
        yield
