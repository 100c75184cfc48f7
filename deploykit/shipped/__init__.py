"""The recipes that come with deploykit: `recipes/` of a checkout, `deploykit/_recipes/` of an installed wheel.

A shipped recipe is `NAME.yaml` in that folder; `_base/` holds what recipes extend, `facts/` what checkpoints are.
"""

from __future__ import annotations

import difflib
import os
import re
from functools import cache
from pathlib import Path

import deploykit
from deploykit.errors import ConfigError, DeploykitError

_PACKAGE = Path(deploykit.__file__).parent
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PARTS = re.compile(r"([^0-9]+)|([0-9]+(?:\.[0-9]+)?)")
SUFFIX = ".yaml"
BASES = "_base"
FACTS = "facts"
SCHEMA = "recipe.v1.json"


@cache
def folder() -> Path:
    """Where the shipped recipes lie. Raises DeploykitError where an installation lost them."""
    # The package's own first: beside an installed package, `recipes/` would be a stranger's.
    return _of_the_package("_recipes", "recipes")


@cache
def schema_path() -> Path:
    """The JSON Schema of recipes as a file, for editors."""
    return _of_the_package("_schemas", "schemas") / SCHEMA


def names() -> list[str]:
    """The names of all shipped recipes, in the order of a person: `-3b` comes before `-14b`."""
    found = [f.stem for f in folder().iterdir() if f.suffix == SUFFIX and _NAME.fullmatch(f.stem)]
    return sorted(found, key=lambda name: [(float(n or "inf"), word) for word, n in _PARTS.findall(name)])


def find(name: str) -> Path | None:
    """The file of a shipped recipe, or None where there is none of that name."""
    if not _NAME.fullmatch(name):
        return None
    file = folder() / f"{name}{SUFFIX}"
    return file if file.is_file() else None


def meant(target: str) -> Path | None:
    """What the name of a shipped recipe stands for: a copy in the working folder (NAME.yaml), else the shipped file.

    None where `target` is no such name, or something in the working folder is called so.
    """
    if os.path.exists(target) or (file := find(target)) is None:  # noqa: PTH110 - unlike pathlib's, never raises
        return None
    copy = Path(f"{target}{SUFFIX}")
    return copy if copy.is_file() else file


def path(name: str) -> Path:
    """The file of a shipped recipe. Raises ConfigError with the name that was meant."""
    found = find(name)
    if found is None:
        close = similar(name)
        raise ConfigError(
            f"there is no shipped recipe {name[:80]!r}",
            fix=f"did you mean {close}?" if close else "`deploykit ls` lists them",
        )
    return found


def similar(name: str) -> str | None:
    """The shipped name that `name` is a misspelling of, if any."""
    close = difflib.get_close_matches(name.lower()[:80].removesuffix(SUFFIX), names(), 1, 0.7)
    return close[0] if close else None


def facts_folder() -> Path:
    """Descriptions of checkpoints that `model.facts` of the shipped recipes names."""
    return folder() / FACTS


def _of_the_package(installed: str, checkout: str) -> Path:
    for found in (_PACKAGE / installed, _PACKAGE.parent / checkout):
        if found.is_dir():
            return found
    raise DeploykitError(
        f"this installation of deploykit has no {checkout}",
        where=str(_PACKAGE),
        why=f"neither {installed}/ in the package nor {checkout}/ beside it is there",
        fix="install deploykit again, from a wheel or an sdist that has them",
    )
