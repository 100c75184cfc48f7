"""What `up` and its like are given: a recipe, a model folder, a GGUF file, or a hub id."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploykit.deployment.secrets import check_exposure, hash_api_keys
from deploykit.deployment.serve import read_chat_template
from deploykit.deployment.stage import Report, ignore, stage
from deploykit.deployment.switches import check_test_switches
from deploykit.errors import ConfigError
from deploykit.recipe import LoadedRecipe, load_recipe, recipe_from_data

_RECIPE_SUFFIXES = (".yaml", ".yml")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load(target: str, *, sets: Sequence[str] = (), report: Report = ignore) -> LoadedRecipe:
    """The first stage alone: the recipe, and everything about it that can be refused before a model is looked at."""
    with stage("recipe", report) as running:
        loaded = open_target(target, sets=sets)
        check_exposure(loaded.recipe.server)
        hash_api_keys(loaded.recipe.server.api_keys)
        read_chat_template(loaded)
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
    raise ConfigError(
        f"there is no {target if len(target) <= 80 else target[:79] + '…'!r}",
        why="a target is a recipe (.yaml), a model folder, a .gguf file, or a hub id `owner/name`",
        fix="check the spelling; `ls recipes` shows the recipes of a checkout",
    )


def _recipe_for(model: dict[str, Any], name: str, sets: Sequence[str]) -> LoadedRecipe:
    return recipe_from_data({"version": 1, "model": model}, name=name, sets=sets)


def _check_model_folder(path: Path) -> None:
    if (path / "config.json").is_file():
        return
    recipes = sorted(p.name for s in _RECIPE_SUFFIXES for p in path.glob(f"*{s}"))
    ggufs = sorted(p.name for p in path.glob("*.gguf"))
    inside = [*recipes, *ggufs]
    raise ConfigError(
        f"the folder {path} holds no model",
        why="there is no config.json in it",
        fix=f"did you mean {path / inside[0]}?" if inside else "give the folder that config.json is in",
    )
