"""What `up` and its like are given: a recipe, a model folder, a GGUF file, or a hub id."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploykit.deployment.secrets import check_exposure, hash_api_keys
from deploykit.deployment.stage import Report, ignore, stage
from deploykit.deployment.switches import check_test_switches
from deploykit.deployment.templates import check_template
from deploykit.errors import ConfigError
from deploykit.hub.switches import use_modelscope
from deploykit.recipe import LoadedRecipe, load_recipe, recipe_from_data

_RECIPE_SUFFIXES = (".yaml", ".yml")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w.+@=/-]+\.gguf)")


def load(target: str, *, sets: Sequence[str] = (), report: Report = ignore) -> LoadedRecipe:
    """The first stage alone: the recipe, and everything about it that can be refused before a model is looked at."""
    with stage("recipe", report) as running:
        loaded = open_target(target, sets=sets)
        check_exposure(loaded.recipe.server)
        hash_api_keys(loaded.recipe.server.api_keys)
        check_template(loaded)
        check_test_switches()
        running.detail = f"{loaded.name}" + (f" from {loaded.path}" if loaded.path else "")
    return loaded


def open_target(target: str, *, sets: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe that `target` is or stands for. A path that exists wins over a hub id of the same spelling.

    Raises RecipeError for a recipe with mistakes, and ConfigError for a target that is nothing of the kind.
    """
    path = Path(os.path.expanduser(target))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    suffix = path.suffix.lower()
    if os.path.isdir(path):  # noqa: PTH112 - unlike pathlib's, never raises
        _check_model_folder(path)
        return _recipe_for({"path": str(path.resolve())}, path.resolve().name, sets)
    if os.path.exists(path):  # noqa: PTH110
        if suffix == ".gguf":
            return _recipe_for({"path": str(path.resolve())}, path.stem, sets)
        if suffix in (".safetensors", ".bin", ".pt", ".pth"):
            raise ConfigError(
                f"{target} is one file of a model",
                why="a model is a folder with config.json, a tokenizer and weights, or a .gguf file",
                fix=f"give the folder: {path.parent}",
            )
        return load_recipe(path, sets=sets)
    if suffix in _RECIPE_SUFFIXES:
        return load_recipe(path, sets=sets)  # says that it is missing, and what is like it
    if suffix != ".gguf" and _HUB_ID.fullmatch(target) and ".." not in target and not target.startswith("."):
        return _recipe_for({"id": target}, target.rpartition("/")[2], sets)
    if (in_hub := _HUB_FILE.fullmatch(target)) and not _may_be_a_path(target):
        return _recipe_for({"sources": _file_sources(in_hub[1], in_hub[2])}, path.stem, sets)
    raise ConfigError(
        f"there is no {target if len(target) <= 80 else target[:79] + '…'!r}",
        why="a target is a recipe (.yaml), a model folder, a .gguf file, a hub id `owner/name`, or one file of it "
        "(`owner/name/FILE.gguf`)",
        fix="check the spelling; `ls recipes` shows the recipes of a checkout",
    )


def _may_be_a_path(target: str) -> bool:
    """`models/llama/x.gguf` beside a folder `models` is a path with a mistake in it, and no file of a hub."""
    return target.startswith((".", "~")) or ".." in target or Path(target.partition("/")[0]).exists()


def _file_sources(repo: str, file: str) -> list[dict[str, Any]]:
    """One file of a repository, from the hubs that a plain id is looked for in."""
    hubs = ("hf", "modelscope") if use_modelscope() else ("hf",)
    return [{hub: repo, "file": file} for hub in hubs]


def _recipe_for(model: dict[str, Any], name: str, sets: Sequence[str]) -> LoadedRecipe:
    return recipe_from_data({"version": 1, "model": model}, name=name, sets=sets)


def _check_model_folder(path: Path) -> None:
    """A folder that can't be a model is refused before anything else is done with it."""
    if (path / "config.json").is_file():
        return
    recipes = sorted(p.name for s in _RECIPE_SUFFIXES for p in path.glob(f"*{s}"))
    if recipes:
        raise ConfigError(
            f"the folder {path} holds no model",
            why="there is no config.json in it",
            fix=f"did you mean {path / recipes[0]}?",
        )
    from deploykit.checkpoint.refuse import check_folder, gguf_files, names_of

    if len(gguf_files(names_of(path))) != 1:  # its only GGUF file would be the model
        check_folder(path)
