"""What in the cache is used by what: running deployments, other processes, and the recipes that are at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.errors import DeploykitError

if TYPE_CHECKING:
    from deploykit.hub.cache import Entry

_KNOWN = ("hf", "modelscope", "files", "headers", "converted", "staging", "locks", "records")


def users_of(found: Sequence[Entry], cache: Path) -> dict[str, list[str]]:
    """For each entry's path: deployments and processes that use it now, then recipes that would."""
    from deploykit.hub.cache import derived
    from deploykit.hub.usage import open_files, users

    opened = open_files(cache)
    names = _deployments()
    recipes = _recipes(cache)
    result: dict[str, list[str]] = {}
    for entry in found:
        pids = sorted(users(Path(entry.path), cache, opened))
        now = list(dict.fromkeys(names.get(pid, f"process {pid}") for pid in pids))
        result[entry.path] = now + [f"recipe {name}" for name in recipes.get(entry.path, ())]
    for entry in found:
        for made in derived(entry, found, cache):  # what uses the file uses what was made of it
            result[made.path] += [u for u in result[entry.path] if u not in result[made.path]]
    return result


def _deployments() -> dict[int, str]:
    """Names of running deployments by the ids of their processes."""
    from deploykit.supervise.state import read_all

    names: dict[int, str] = {}
    for state in read_all():
        if state.live:
            for pid in (state.pid, state.engine_pid, state.front_pid):
                if pid is not None:
                    names[pid] = f"deployment {state.name}"
    return names


def _recipes(cache: Path) -> dict[str, list[str]]:
    """Recipes of the checkout and of the current folder whose model is in the cache, by its path."""
    from deploykit.deployment.sources import models_folder, refs_of
    from deploykit.doctor.recipes import shipped_recipes
    from deploykit.hub import locate
    from deploykit.recipe import load_recipe

    names: dict[str, list[str]] = {}
    for path in shipped_recipes():
        with contextlib.suppress(DeploykitError, OSError):
            loaded = load_recipe(path)
            found = locate(refs_of(loaded.recipe.model), cache=models_folder(loaded, cache))
            if found is not None:
                names.setdefault(str(found.path), []).append(loaded.name)
    return names


def other_folders(cache: Path) -> dict[str, int]:
    """Bytes of what other parts of deploykit keep in the cache: built libraries, tokenizers, benchmarks' files."""
    from deploykit.hub.staging import folder_bytes

    if not cache.is_dir():
        return {}
    folders = sorted(p for p in cache.iterdir() if p.is_dir() and p.name not in _KNOWN)
    return {p.name: folder_bytes(p) for p in folders}
