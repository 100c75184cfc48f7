"""`deploykit show NAME`: a shipped recipe, as it is written or as one text with what it extends."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated

import typer

from deploykit.cli._output import coloured, paint, safe
from deploykit.errors import ConfigError

_KEY = re.compile(r"([ -]*)([\w.-]+)(?=:( |$))")


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A shipped recipe; `deploykit ls` lists them.", show_default=False
        ),
    ],
    merged: Annotated[
        bool, typer.Option("--merged", help="With what it extends written into it, as `cp` copies it.")
    ] = False,
    path: Annotated[bool, typer.Option("--path", help="Print where its file is, and nothing else.")] = False,
) -> None:
    """Print a shipped recipe. What it extends follows as comments, so that the output is a recipe still."""
    from deploykit import shipped

    file = shipped.path(name)
    if path and merged:
        raise ConfigError("--path and --merged exclude each other", fix="leave one out")
    if path:
        print(file)
        return
    if merged:
        from deploykit.shipped.flatten import flatten

        _print(flatten(file).text)
        return
    from deploykit.recipe.compose import read_layers
    from deploykit.recipe.files import read_file

    document = read_file(file)
    bases = [layer.source for layer in read_layers(document, file).files[:-1]]
    parts = [file.read_text(encoding="utf-8").rstrip()]
    for base in bases:
        lines = "\n".join(f"#   {line}".rstrip() for line in base.lines).rstrip("\n# ")
        parts.append(f"# It extends {os.path.relpath(base.name, file.parent)}:\n#\n{lines}")
    _print("\n\n".join(parts) + "\n")


def _print(text: str) -> None:
    for line in text.splitlines():
        print(_styled(safe(line)))


def _styled(line: str) -> str:
    """Comments dim and keys in colour, in the terminal's own colours, whatever its background is."""
    if not coloured(sys.stdout) or not line.strip():
        return line
    if line.lstrip().startswith("#"):
        return paint(line, "2", sys.stdout)
    if match := _KEY.match(line):
        return f"{match[1]}{paint(match[2], '36', sys.stdout)}{line[match.end() :]}"
    return line
