"""`deploykit schema [KEY]`: the JSON Schema of recipes, for editors and other tools."""

from __future__ import annotations

from typing import Annotated

import typer


def schema(
    key: Annotated[str | None, typer.Argument(help="Print this key alone, such as `engine.cache`.")] = None,
) -> None:
    """Print the JSON Schema (draft 2020-12) of recipe files."""
    from deploykit.recipe.jsonschema import recipe_schema_text

    typer.echo(recipe_schema_text() if key is None else _part(key), nl=False)


def _part(key: str) -> str:
    import json

    from deploykit.errors import ConfigError
    from deploykit.recipe.diagnostics import printable
    from deploykit.recipe.suggest import for_key
    from deploykit.recipe.tree import lookup

    # `model.sources[]` and `model.sources` followed by a key of an entry are both understood.
    path: list[str | int] = []
    for name in key.replace("[]", "").split("."):
        above = lookup(tuple(path))
        if above is not None and above.is_list:
            path.append(0)
        node = lookup((*path, name))
        if node is None:
            section = lookup(tuple(path))
            siblings = list(section.keys) if section else []
            fix = for_key((*path, name), siblings).help
            raise ConfigError(f"there is no key `{printable(key[:80])}`", fix=fix)
        path.append(name)
    found = lookup(tuple(path))
    return json.dumps(found.schema if found else {}, indent=2, ensure_ascii=False) + "\n"
