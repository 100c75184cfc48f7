"""`deploykit validate FILE...`: is each recipe right, and if not, where and how to fix it."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.cli._output import coloured, paint
from deploykit.errors import EXIT_OK, EXIT_USAGE, ConfigError

if TYPE_CHECKING:
    from deploykit.recipe import Diagnostic, RecipeError
    from deploykit.recipe.fix import Fixed

    Result = tuple[str, str | RecipeError]  # the file; the recipe's name, or what is wrong


class OutputFormat(StrEnum):
    text = "text"
    json = "json"
    github = "github"
    sarif = "sarif"


def validate(
    files: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE", help="Recipes to check: files, names of shipped ones, - for stdin."),
    ],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Check with this key changed; repeatable."),
    ] = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            help="Check with these profiles over it; without it, with each of its profiles by itself.",
        ),
    ] = None,
    output: Annotated[
        OutputFormat,
        typer.Option(
            "--format", help="json: one object; github: workflow commands; sarif: for code scanning."
        ),
    ] = OutputFormat.text,
    fix: Annotated[
        bool, typer.Option("--fix", help="First rename misspelt keys and other servers' names; shows a diff.")
    ] = False,
) -> int:
    """Check recipes without running them. Ends with 0 if all are valid, else with 2."""
    from deploykit import shipped
    from deploykit.recipe import RecipeError, check_recipe
    from deploykit.recipe.files import STDIN

    if fix and "-" in files:
        raise ConfigError("--fix writes into a file, and `-` is stdin", fix="name a file")
    files = [str(STDIN if file == "-" else shipped.meant(file) or file) for file in files]
    fixed = [done for file in files if (done := _fix(file, output))] if fix else []
    results: list[Result] = []
    for file in files:
        try:
            name = check_recipe(file, sets or (), profiles or (), every_profile=not profiles)
            results.append((file, name))
        except RecipeError as error:
            results.append((file, error))
    if output is OutputFormat.text:
        _print_text(results)
    elif output is OutputFormat.json:
        _print_json(results, fixed)
    elif output is OutputFormat.github:
        _print_github(_diagnostics(results))
    else:
        _print_sarif(_diagnostics(results))
    return EXIT_USAGE if any(isinstance(result, RecipeError) for _, result in results) else EXIT_OK


def _fix(file: str, output: OutputFormat) -> Fixed | None:
    """Write what can be renamed in a file, and show it: on stdout, or on stderr where that is for a program."""
    from deploykit.recipe.diagnostics import printable
    from deploykit.recipe.fix import fix_file

    fixed = fix_file(file)
    if fixed is None:
        return None
    fixed.write()
    stream = sys.stdout if output is OutputFormat.text else sys.stderr
    for line in fixed.diff().splitlines():
        colour = {"+": "32", "-": "31", "@": "36"}.get(line[:1])
        print(paint(line, colour, stream) if colour else line, file=stream)
    count = len(fixed.renames)
    print(f"renamed {count} key{'s' * (count != 1)} in {printable(file)}\n", file=stream)
    return fixed


def _diagnostics(results: list[Result]) -> list[Diagnostic]:
    from deploykit.recipe import RecipeError

    return [d for _, result in results if isinstance(result, RecipeError) for d in result.diagnostics]


def _print_text(results: list[Result]) -> None:
    from deploykit.recipe.diagnostics import printable
    from deploykit.recipe.render import render_plain, render_rich

    if not coloured(sys.stdout):
        for file, result in results:
            if isinstance(result, str):
                typer.echo(f"ok {printable(file)} ({result})")
            else:
                typer.echo(render_plain(result.diagnostics))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for file, result in results:
        if isinstance(result, str):
            console.print(Text.assemble(("ok", "bold green"), f" {printable(file)} ({result})"))
        else:
            console.print(render_rich(result.diagnostics))
    if wrong := _diagnostics(results):
        console.print(Text(f"more about an error: deploykit explain {wrong[0].code}", "dim"))


def _print_json(results: list[Result], fixed: list[Fixed]) -> None:
    import dataclasses

    from deploykit.recipe.render import to_json

    report = {
        "files": [
            {
                "file": file,
                "ok": isinstance(r, str),
                "name": r if isinstance(r, str) else None,
            }
            for file, r in results
        ],
        "errors": [to_json(d) for d in _diagnostics(results)],
        "fixed": [
            {"file": str(f.path), "renames": [dataclasses.asdict(r) for r in f.renames]} for f in fixed
        ],
    }
    typer.echo(json.dumps(report, indent=2))


def _print_github(diagnostics: list[Diagnostic]) -> None:
    from deploykit.recipe.report import to_github

    for diagnostic in diagnostics:
        typer.echo(to_github(diagnostic))


def _print_sarif(diagnostics: list[Diagnostic]) -> None:
    from deploykit import __version__
    from deploykit.recipe.report import to_sarif

    typer.echo(json.dumps(to_sarif(diagnostics, __version__), indent=2))
