"""`deploykit explain [CODE]`: what an error of a recipe means, an example that has it, and the way out."""

from __future__ import annotations

import difflib
import json
import sys
from typing import Annotated

import typer

from deploykit.cli._options import Json
from deploykit.cli._output import coloured, paint
from deploykit.errors import ConfigError


def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="Such as `unknown-key`; without it: all codes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain an error code of recipes, or list the codes."""
    from deploykit.recipe.codes import CODES

    if code is None:
        if as_json:
            typer.echo(json.dumps({name: known.title for name, known in CODES.items()}, indent=2))
        else:
            width = max(map(len, CODES))
            for name, known in CODES.items():
                typer.echo(f"{paint(f'{name:<{width}}', '1', sys.stdout)}  {known.title}")
        return
    name = code.strip().lower().removeprefix("error[").removesuffix("]")
    if name not in CODES:
        close = difflib.get_close_matches(name[:64], CODES, 1)
        fix = (
            f"did you mean `deploykit explain {close[0]}`?"
            if close
            else "`deploykit explain` lists the codes"
        )
        raise ConfigError(f"there is no code {code[:64]!r}", fix=fix)
    if as_json:
        _print_json(name)
    else:
        _print_text(name)


def _print_json(name: str) -> None:
    from deploykit.recipe.codes import CODES
    from deploykit.recipe.examples import example_errors, example_text
    from deploykit.recipe.render import to_json

    known = CODES[name]
    report = {
        "code": name,
        "title": known.title,
        "meaning": known.meaning,
        "example": example_text(known),
        "command": known.command,
        "errors": [to_json(d) for d in example_errors(known)],
        "fix": known.fix,
    }
    typer.echo(json.dumps(report, indent=2))


def _print_text(name: str) -> None:
    import textwrap

    from deploykit.recipe.codes import CODES
    from deploykit.recipe.examples import example_errors, example_text
    from deploykit.recipe.render import render_plain, render_rich

    known, out = CODES[name], sys.stdout
    typer.echo(f"{paint(name, '1;31', out)}: {known.title}\n")
    typer.echo(textwrap.fill(known.meaning, 100))
    typer.echo(f"\n{paint('Example', '1', out)}\n")
    if text := example_text(known):
        typer.echo(textwrap.indent(text, "  "))
    typer.echo(f"  $ {known.command}")
    errors = example_errors(known)
    if coloured(out) and errors:
        from rich.console import Console

        Console(highlight=False, soft_wrap=True).print(render_rich(errors))
    elif errors:
        typer.echo(textwrap.indent(render_plain(errors), "  "))
    typer.echo(f"\n{paint('Fix', '1', out)}\n")
    typer.echo(textwrap.fill(known.fix, 100))
