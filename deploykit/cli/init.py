"""`deploykit init [MODEL]`: a commented recipe that fits a model to this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploykit.cli._init_make import Made, Use, Wish, make
from deploykit.errors import ConfigError, DeploykitError

if TYPE_CHECKING:
    from deploykit.recipe import Recipe


def init(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A hub id (owner/name), a model folder, a .gguf file, the name of a shipped recipe, or a recipe. "
            "Asked for on a terminal.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Where to write it: ./NAME.yaml by default; - is stdout."
        ),
    ] = None,
    use: Annotated[
        Use | None,
        typer.Option(
            "--use",
            help="chat: a few people (default); many: short requests, many at once; long: long documents.",
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            "--machine", metavar="NAME|FILE", help="Fit it to another machine, as for `deploykit plan`."
        ),
    ] = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option("--profile", metavar="NAME", help="A variant of the recipe, such as awq; repeatable."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Plan with this value, and write it too; repeatable."),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download the model first; without it headers alone are read.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Make no connection.")] = False,
) -> None:
    """Write a recipe for MODEL with the values that the plan chose for this machine, each with its reason.

    What `up MODEL` serves without a recipe is this one. No file is overwritten. Of a model that isn't here, the headers
    of its files are read and nothing else. Exit code 3: it does not fit.
    """
    from deploykit.cli._recipe_files import destination, refuse_taken
    from deploykit.deployment.target import open_target

    if fetch and offline:
        raise ConfigError("--fetch and --offline exclude each other", fix="leave one out")
    if model is None:
        from deploykit.cli._init_wizard import ask

        model, use, output = ask(use, output)
    if model == "-":
        raise ConfigError(
            "`init` begins with a model or a recipe file, and `-` is stdin", fix="write the recipe to a file"
        )
    wish = Wish(model, use or Use.chat, machine, tuple(sets or ()), tuple(profiles or ()), fetch, offline)
    loaded = open_target(model, sets=wish.sets, profiles=wish.profiles)
    file = destination(None if output == "-" else output, loaded.name)
    if output != "-":
        refuse_taken(file, {}, FIX)
    made = make(wish, file, loaded)
    _check(made)
    _write(made, to_stdout=output == "-")


FIX = "another file: deploykit init MODEL -o FILE"


def _check(made: Made) -> None:
    """The text has to mean what was planned. Nothing is written of one that doesn't."""
    from deploykit.recipe.recipe import recipe_from_bytes

    read = recipe_from_bytes(made.text.encode(), made.file).recipe
    source = made.loaded.path.parent if made.loaded.path else made.file.parent
    if _meaning(read, made, made.file.parent) == _meaning(made.loaded.recipe, made, source):
        return
    there = _meaning(read, made, made.file.parent, anywhere=True)
    if there == _meaning(made.loaded.recipe, made, source, anywhere=True):
        raise ConfigError(
            "the recipe names files by their place beside it",
            where=str(made.loaded.path),
            fix=f"write the new one into the same folder: -o {source / made.file.name}",
        )
    raise DeploykitError(
        f"the recipe for {made.loaded.name} would not mean what was planned",
        fix="this is a bug in deploykit: report the model's name",
    )


def _meaning(recipe: Recipe, made: Made, folder: Path, *, anywhere: bool = False) -> dict[str, Any]:
    """Everything but the name. Files that are copied count by their name, and with `anywhere` all in the folder."""
    from deploykit.cli._recipe_files import plain

    text = recipe.model_dump_json(exclude={"name"})
    for file in made.files:
        name = file.relative_to(made.file.parent)
        text = text.replace(json.dumps(plain(folder / name)), json.dumps(str(name)))
    if anywhere:
        text = text.replace(plain(folder), "")
    found: dict[str, Any] = json.loads(text)
    return found


def _write(made: Made, *, to_stdout: bool) -> None:
    from deploykit.cli._output import print_error, safe
    from deploykit.cli._recipe_files import place, refuse_taken

    if made.warning is not None:
        print_error(DeploykitError("the recipe has no chat template yet", why=made.warning))
    if to_stdout:
        print(made.text, end="")
        return
    refuse_taken(made.file, made.files, FIX)
    for file, data in made.files.items():
        place(file, data, replace=True)
    place(made.file, made.text.encode(), replace=False)
    print(f"wrote {safe(str(made.file))}")
    for value in made.values:
        print(f"  {value.key}: {value.value}  ({safe(value.reason)})")
    for file in made.files:
        print(f"wrote {safe(str(file))}")
    print(f"next  deploykit up {safe(str(made.file))}")
