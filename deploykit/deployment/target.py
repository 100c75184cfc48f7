"""What `up` and its like are given: a recipe, the name of a shipped one, a model folder, a GGUF file, or a hub id."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deploykit.deployment.secrets import check_exposure, hash_api_keys
from deploykit.deployment.stage import Report, ignore, stage
from deploykit.deployment.switches import check_test_switches
from deploykit.deployment.templates import check_template
from deploykit.errors import ConfigError
from deploykit.hub.switches import use_modelscope
from deploykit.recipe import LoadedRecipe, load_recipe, recipe_from_data
from deploykit.recipe.files import STDIN
from deploykit.recipe.lock import with_lock
from deploykit.shipped import find as find_shipped
from deploykit.shipped import meant, similar

_RECIPE_SUFFIXES = (".yaml", ".yml")
_MODEL_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".pth")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_URL = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|modelscope\.cn/models)/([\w.-]+/[\w.-]+)(?:/.*)?"
)
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w.+@=/-]+\.gguf)")


def load(
    target: str,
    *,
    sets: Sequence[str] = (),
    profiles: Sequence[str] = (),
    locked: bool = False,
    report: Report = ignore,
) -> LoadedRecipe:
    """The first stage alone: the recipe, and everything about it that can be refused before a model is looked at.

    `locked` demands the lock beside it.
    """
    with stage("recipe", report) as running:
        if locked:
            refuse_shipped(target)
        loaded = open_target(target, sets=sets, profiles=profiles)
        if locked:
            loaded = with_lock(loaded)
        check_exposure(loaded.recipe.server)
        hash_api_keys(loaded.recipe.server.api_keys)
        check_template(loaded)
        check_test_switches()
        running.detail = f"{loaded.name}" + (f" from {loaded.path}" if loaded.path else "")
        if loaded.profiles:
            running.detail += f" with profile {', '.join(loaded.profiles)}"
        if loaded.lock is not None:
            running.detail += f", locked to {loaded.lock}"
    return loaded


def open_target(target: str, *, sets: Sequence[str] = (), profiles: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe that `target` is or stands for. A path that exists wins over a name or a hub id of the same spelling.

    `profiles` and then `sets` are laid over it.
    Raises RecipeError for a recipe with mistakes, and ConfigError for a target that is nothing of the kind.
    """
    file = recipe_file(target)
    if file is not None:
        return load_recipe(file, sets, profiles)
    implied = recipe_from_target(target)
    return recipe_from_data(implied.data, name=implied.name, sets=sets, profiles=profiles)


def recipe_file(target: str) -> Path | None:
    """The recipe's file, which may be missing, where `target` is a recipe and no model. `-` is the one on stdin."""
    if target == "-":
        return STDIN
    path = Path(os.path.expanduser(target))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    suffix = path.suffix.lower()
    if os.path.isdir(path):  # noqa: PTH112 - unlike pathlib's, never raises
        return None
    if os.path.exists(path):  # noqa: PTH110
        return None if suffix in _MODEL_SUFFIXES else path
    if suffix in _RECIPE_SUFFIXES:
        if path.parent.name in ("", "recipes") and find_shipped(path.stem):
            raise ConfigError(
                f"there is no file {target}",
                fix=f"the shipped recipe of that name needs no path: {path.stem}; `deploykit cp {path.stem}` copies it",
            )
        return path  # whoever reads it says that it is missing, and what is like it
    return meant(target)


class Implied(NamedTuple):
    """A recipe that no file holds: its data, and what it is called."""

    data: dict[str, Any]
    name: str


def recipe_from_target(target: str) -> Implied:
    """The recipe that a model stands for: what `up MODEL` serves, and what `init MODEL` writes.

    Everything but the model is left open for the plan. Raises ConfigError for what is no model.
    """
    path = Path(os.path.expanduser(target))  # noqa: PTH111
    suffix = path.suffix.lower()
    if os.path.isdir(path):  # noqa: PTH112
        _check_model_folder(path)
        return _implied({"path": str(path.resolve())}, path.resolve().name)
    if os.path.exists(path):  # noqa: PTH110
        if suffix == ".gguf":
            return _implied({"path": str(path.resolve())}, path.stem)
        raise ConfigError(
            f"{target} is one file of a model",
            why="a model is a folder with config.json, a tokenizer and weights, or a .gguf file",
            fix=f"give the folder: {path.parent}",
        )
    if suffix != ".gguf" and _HUB_ID.fullmatch(target) and ".." not in target and not target.startswith("."):
        return _implied({"id": target}, target.rpartition("/")[2])
    if (in_hub := _HUB_FILE.fullmatch(target)) and not _may_be_a_path(target):
        return _implied({"sources": _file_sources(in_hub[1], in_hub[2])}, path.stem)
    if in_url := _HUB_URL.fullmatch(target):
        raise ConfigError(
            f"{target[:200]} is an address, and a target is no address",
            fix=f"the hub's id alone: {in_url[1]}",
        )
    raise ConfigError(
        f"there is no {target if len(target) <= 80 else target[:79] + '…'!r}",
        why="a target is a recipe (.yaml), the name of a shipped one, a model folder, a .gguf file, a hub id "
        "`owner/name`, or one file of it (`owner/name/FILE.gguf`)",
        fix=f"did you mean `{close}`?"
        if (close := similar(target))
        else "`deploykit ls` lists the shipped recipes",
    )


def refuse_shipped(target: str) -> None:
    """Raises ConfigError for the name of a shipped recipe, where a lock beside the recipe is written or asked for."""
    file = None if os.path.lexists(os.path.expanduser(target)) else meant(target)  # noqa: PTH111
    if file is not None and file == find_shipped(target):
        raise ConfigError(
            "a lock lies beside its recipe, and a shipped recipe lies with the program",
            where=target,
            fix=f"copy it with `deploykit cp {target}`, then `deploykit lock {target}.yaml` and use the copy",
        )


def located(target: str) -> str:
    """The same target in a spelling that holds in every folder: paths are made absolute, shipped names files."""
    if target == "-":
        return str(STDIN)  # which nobody can read again
    path = Path(os.path.expanduser(target))  # noqa: PTH111
    if os.path.exists(path):  # noqa: PTH110
        return str(path.resolve())
    file = meant(target)
    return target if file is None else str(file.resolve())


def _may_be_a_path(target: str) -> bool:
    """`models/llama/x.gguf` beside a folder `models` is a path with a mistake in it, and no file of a hub."""
    return target.startswith((".", "~")) or ".." in target or Path(target.partition("/")[0]).exists()


def _file_sources(repo: str, file: str) -> list[dict[str, Any]]:
    """One file of a repository, from the hubs that a plain id is looked for in."""
    hubs = ("hf", "modelscope") if use_modelscope() else ("hf",)
    return [{hub: repo, "file": file} for hub in hubs]


def _implied(model: dict[str, Any], name: str) -> Implied:
    return Implied({"version": 1, "model": model}, name)


def _check_model_folder(path: Path) -> None:
    """A folder that can't be a model is refused before anything else is done with it."""
    if (path / "config.json").is_file():
        return
    recipes = sorted(p.name for s in _RECIPE_SUFFIXES for p in path.glob(f"*{s}"))
    if recipes:
        raise ConfigError(
            f"the folder {path} holds no model",
            why="there is no config.json in it",
            fix=f"did you mean {path / recipes[0]}?"
            if len(recipes) == 1
            else f"name one of the {len(recipes)} recipes in it, such as {path / recipes[0]}",
        )
    from deploykit.checkpoint.refuse import check_folder, gguf_files, names_of

    if len(gguf_files(names_of(path))) != 1:  # its only GGUF file would be the model
        check_folder(path)
