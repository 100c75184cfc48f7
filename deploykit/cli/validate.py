"""`deploykit validate FILE...`: is each recipe right, and if not, where and how to fix it."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.cli._output import coloured
from deploykit.errors import EXIT_OK, EXIT_USAGE

if TYPE_CHECKING:
    from deploykit.recipe import LoadedRecipe, RecipeError


class OutputFormat(StrEnum):
    text = "text"
    json = "json"


def validate(
    files: Annotated[list[str], typer.Argument(metavar="RECIPE", help="Recipe files to check.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Check with this key changed; repeatable."),
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--format", help="`json` is one object, for scripts and editors.")
    ] = OutputFormat.text,
) -> int:
    """Check recipes without running them. Ends with 0 if all are valid, else with 2."""
    from deploykit.recipe import RecipeError, load_recipe

    results: list[tuple[str, LoadedRecipe | RecipeError]] = []
    for file in files:
        try:
            results.append((file, load_recipe(file, sets or ())))
        except RecipeError as error:
            results.append((file, error))
    if output is OutputFormat.json:
        _print_json(results)
    else:
        _print_text(results)
    return EXIT_USAGE if any(isinstance(result, RecipeError) for _, result in results) else EXIT_OK


def _print_text(results: list[tuple[str, LoadedRecipe | RecipeError]]) -> None:
    from deploykit.recipe import LoadedRecipe
    from deploykit.recipe.diagnostics import printable
    from deploykit.recipe.render import render_plain, render_rich

    if not coloured(sys.stdout):
        for file, result in results:
            if isinstance(result, LoadedRecipe):
                typer.echo(f"ok {printable(file)} ({result.name})")
            else:
                typer.echo(render_plain(result.diagnostics))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for file, result in results:
        if isinstance(result, LoadedRecipe):
            console.print(Text.assemble(("ok", "bold green"), f" {printable(file)} ({result.name})"))
        else:
            console.print(render_rich(result.diagnostics))


def _print_json(results: list[tuple[str, LoadedRecipe | RecipeError]]) -> None:
    import json

    from deploykit.recipe import LoadedRecipe, RecipeError
    from deploykit.recipe.render import to_json

    report = {
        "files": [
            {
                "file": file,
                "ok": isinstance(r, LoadedRecipe),
                "name": r.name if isinstance(r, LoadedRecipe) else None,
            }
            for file, r in results
        ],
        "errors": [to_json(d) for _, r in results if isinstance(r, RecipeError) for d in r.diagnostics],
    }
    typer.echo(json.dumps(report, indent=2))
