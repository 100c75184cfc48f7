"""`deploykit lock`: which commit and which files a recipe's model is, written beside the recipe."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploykit.cli._options import Json, Profiles, Sets
from deploykit.errors import EXIT_FAILURE, EXIT_OK, ConfigError

if TYPE_CHECKING:
    from deploykit.recipe import LoadedRecipe
    from deploykit.recipe.lock import Lock


def lock(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file.", show_default=False)],
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing: ask whether the hub still has what the lock says."),
    ] = False,
    set_: Sets = None,
    profiles: Profiles = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Lock what is on the disk, and make no connection.")
    ] = False,
    json_: Json = False,
) -> int:
    """Write the lock of RECIPE beside it: hub, commit, and the size and sha256 of every file of its model.

    `up`, `plan` and `pull` take --locked: that commit and those files, or an error that says what differs.
    With --check, exit code 1: the hub has moved on. 2: there is no lock, or it is another recipe's.
    """
    from deploykit.deployment.target import open_target, refuse_shipped
    from deploykit.fsutil import cache_dir
    from deploykit.recipe.lock import lock_path

    refuse_shipped(recipe)
    loaded = open_target(recipe, sets=set_ or (), profiles=profiles or ())
    path = lock_path(loaded)
    if check:
        if offline:
            raise ConfigError("--check and --offline exclude each other", fix="leave one out")
        return _check(loaded, cache_dir(), json_)
    return _write(loaded, path, cache_dir(), offline, json_)


def _write(loaded: LoadedRecipe, path: Path, cache: Path, offline: bool, json_: bool) -> int:
    from deploykit.cli._output import safe, stage_display
    from deploykit.deployment.lock import make_lock
    from deploykit.errors import DeploykitError
    from deploykit.plan.text import format_bytes
    from deploykit.recipe.lock import write_lock

    with contextlib.closing(stage_display()) as display:
        made = make_lock(loaded, cache, offline=offline, report=display.report)
    try:
        write_lock(path, made)
    except OSError as error:
        raise DeploykitError(
            "the lock can't be written",
            where=str(path),
            why=error.strerror or str(error),
            fix="copy the recipe to a folder that may be written: deploykit cp",
        ) from None
    if json_:
        _print_json({"path": str(path), "lock": made})
        return EXIT_OK
    print(f"locked    {made}")
    print(f"files     {len(made.files)}, {format_bytes(sum(f.size for f in made.files))}")
    print(f"written   {safe(str(path))}")
    return EXIT_OK


def _check(loaded: LoadedRecipe, cache: Path, json_: bool) -> int:
    from deploykit.cli._output import safe
    from deploykit.deployment.lock import moved
    from deploykit.recipe.lock import command, with_lock

    held: Lock | None = with_lock(loaded).lock
    if held is None:
        raise ConfigError(f"there is no lock of {loaded.name}", fix=command(loaded))
    lines = moved(loaded, held, cache)
    if json_:
        _print_json({"lock": held, "moved": lines})
    elif lines:
        print(f"locked    {held}")
        for line in lines:
            print(f"moved     {safe(line)}")
        print(f"next      {command(loaded)}")
    else:
        still = "a version and a sha256 don't move" if held.hub == "pypi" else "it stands there still"
        print(f"locked    {held}: {still}")
    return EXIT_FAILURE if lines else EXIT_OK


def _print_json(data: dict[str, Any]) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
