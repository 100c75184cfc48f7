"""`deploykit doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.errors import EXIT_FAILURE, EXIT_OK

if TYPE_CHECKING:
    from deploykit.doctor import RecipeRow, Report

MARKS = {"ok": "✔", "warn": "!", "fail": "✘", "skip": "-"}
STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}
FITS = {"yes": "yes", "no": "no", "unknown": "?", "invalid": "invalid"}


def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="Also judge this recipe, model folder, GGUF file or hub id on this machine.",
            show_default=False,
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for a warning too.")] = False,
) -> int:
    """Examine this machine: what works, what doesn't, why it matters and how to fix it.

    Exit code 0: nothing failed. 1: something did (with --strict: or was warned about).
    """
    from deploykit.deployment.target import open_target
    from deploykit.doctor import examine

    report = examine(open_target(recipe) if recipe is not None else None)
    if json_:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _print(report)
    bad = ("fail", "warn") if strict else ("fail",)
    return EXIT_FAILURE if report.status in bad else EXIT_OK


def _print(report: Report) -> None:
    from deploykit.cli._tables import Printer

    out = Printer()
    width = max(len(check.title) for check in report.checks)
    for check in report.checks:
        style = STYLES[check.status]
        out.line(f"{MARKS[check.status]} {check.title:<{width}}  {check.found}", style=style)
        if check.status in ("warn", "fail"):
            for label, text in (("why", check.why), ("fix", check.fix)):
                if text:
                    out.line(f"  {'':<{width}}  {label}: {text}")
    if report.recipes:
        out.heading("Recipes on this machine")
        out.table(
            [("recipe", "engine", "fits", "sessions", "why"), *map(_row, report.recipes)],
            ("recipe", "engine", "fits", "sessions", "why"),
        )
    out.line("")
    out.line(_verdict(report), style=f"bold {STYLES[report.status]}")


def _row(row: RecipeRow) -> tuple[str, str, str, str, str]:
    engine = f"{row.engine} on {row.device}" if row.engine else "-"
    sessions = f"{row.sessions} x {row.session_len}" if row.sessions else "-"
    return row.recipe, engine, FITS[row.fits], sessions, row.why


def _verdict(report: Report) -> str:
    failed = [check.title for check in report.checks if check.status == "fail"]
    warned = [check.title for check in report.checks if check.status == "warn"]
    if failed:
        return f"{len(failed)} of {len(report.checks)} checks failed: {', '.join(failed)}"
    if warned:
        return f"This machine can serve models; {len(warned)} to look at: {', '.join(warned)}"
    return "This machine is ready to serve models."
