"""`deploykit config RECIPE`: what a recipe comes to, and where each of its values comes from."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.cli._options import Profiles, Sets
from deploykit.errors import EXIT_OK, ConfigError

if TYPE_CHECKING:
    from deploykit.recipe import LoadedRecipe
    from deploykit.recipe.dump import Value


def config(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe (- for stdin) or the name of a shipped one; of a model, the recipe that it implies.",
            show_default=False,
        ),
    ],
    profiles: Profiles = None,
    sets: Sets = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every value on a line of its own, with where it comes from.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="The merged recipe, and every value with its origin, as JSON.")
    ] = False,
) -> int:
    """Print a recipe with everything that it extends, its profiles, variables and settings merged into one.

    The output is a recipe too, which says the same. Credentials are never printed.
    """
    from deploykit.deployment.target import open_target
    from deploykit.recipe.dump import to_yaml, values_of

    if explain and json_:
        raise ConfigError(
            "--explain and --json exclude each other", why="--json has the origins too", fix="leave one out"
        )
    loaded = open_target(target, sets=sets or (), profiles=profiles or ())
    if json_:
        _print_json(loaded, values_of(loaded))
    elif explain:
        _print_values(values_of(loaded))
    else:
        sys.stdout.write(to_yaml(loaded))
    return EXIT_OK


def _print_json(loaded: LoadedRecipe, values: list[Value]) -> None:
    import dataclasses

    from deploykit.recipe.dump import merged_data

    report = {
        "name": loaded.name,
        "file": str(loaded.path) if loaded.path is not None else None,
        "profiles": list(loaded.profiles),
        "all_profiles": list(loaded.all_profiles),
        "recipe": merged_data(loaded),
        "values": [
            {"key": value.key, "value": value.value, "origin": dataclasses.asdict(value.origin)}
            for value in values
        ],
    }
    typer.echo(json.dumps(report, indent=2))


def _print_values(values: list[Value]) -> None:
    from deploykit.cli._output import coloured, safe
    from deploykit.recipe.dump import dump_yaml

    def written(value: object) -> str:
        text = dump_yaml([value]) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text = text.removeprefix("- ").rstrip("\n") if isinstance(value, str) else text
        return safe(text) if "\n" not in text else json.dumps(value)

    rows = [(value.key, written(value.value), safe(str(value.origin))) for value in values]
    if not coloured(sys.stdout):
        key_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
        value_width = min(value_width, 60)
        for key, value, origin in rows:
            print(f"{key:<{key_width}}  {value:<{value_width}}  {origin}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("key", "value", "from"):
        table.add_column(name, overflow="fold", no_wrap=name == "key")
    for key, value, origin in rows:
        is_default = origin == "default"
        style = "dim" if is_default else ""
        table.add_row(Text(key, style), Text(value, style or "cyan"), Text(origin, style))
    Console(highlight=False).print(table)
