"""`deploykit cp NAME [DEST]`: a shipped recipe as a file of one's own, which needs nothing of deploykit's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.cli._recipe_files import beside, destination, place, plain, refuse_taken
from deploykit.errors import DeploykitError

if TYPE_CHECKING:
    from deploykit.shipped.flatten import Flat


def cp(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A shipped recipe; `deploykit ls` lists them.", show_default=False
        ),
    ],
    dest: Annotated[
        str | None,
        typer.Argument(
            metavar="DEST", help="A .yaml file or a folder; ./NAME.yaml by default.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Copy a shipped recipe to change it: one file, its comments kept, what it extends written into it.

    Descriptions of checkpoints that it names are copied beside it, into facts/. Nothing is overwritten without --force.
    """
    from deploykit import shipped
    from deploykit.cli._output import safe
    from deploykit.shipped.edit import with_modeline
    from deploykit.shipped.flatten import flatten

    source = shipped.path(name)
    target = destination(dest, name)
    flat = flatten(source)
    files = beside(flat, source, target)
    if not force:
        refuse_taken(target, files, "another DEST, or --force to replace what is there")
    text = with_modeline(flat.text, target.parent)
    _check(source, flat, text, target)
    for file, data in files.items():
        place(file, data, replace=True)
    place(target, text.encode(), replace=force)
    print(f"wrote {safe(str(target))}" + (f", with {_listed(flat)} written into it" if flat.extended else ""))
    for file in files:
        print(f"wrote {safe(str(file))}")
    print(f"next  deploykit plan {safe(str(target))}")


def _check(source: Path, flat: Flat, text: str, target: Path) -> None:
    """The copy has to mean what the recipe means, in every profile, wherever its files lie."""
    from deploykit.recipe import load_recipe
    from deploykit.recipe.recipe import recipe_from_bytes

    for chosen in ((), *((profile,) for profile in load_recipe(source).all_profiles)):
        wanted = load_recipe(source, profiles=chosen).recipe.model_dump_json()
        made = recipe_from_bytes(text.encode(), target, chosen).recipe.model_dump_json()
        if made.replace(plain(target.parent), "") != wanted.replace(plain(source.parent), ""):
            which = f" with --profile {chosen[0]}" if chosen else ""
            raise DeploykitError(
                f"a copy of {source.stem}{which} would not mean the same",
                why=f"{_listed(flat)} could not be written into it",
                fix="this is a bug in deploykit: report the recipe's name",
            )


def _listed(flat: Flat) -> str:
    return ", ".join(f"{path.parent.name}/{path.name}" for path in flat.extended)
