"""What other servers call the things that a recipe sets, and how they write the values.

One table for the diagnostics, for hints on the command line and in Python, for `doctor`, and for docs/coming-from.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from .commands import COMMANDS, Hint, command
from .entry import SAME, Convert, Foreign
from .environment import ENVIRONMENT, Variable, environment
from .lmdeploy import LMDEPLOY
from .ollama import OLLAMA
from .python import PYTHON, attribute
from .sglang import SGLANG
from .tgi import OTHERS, TGI
from .values import FOREIGN_VALUES
from .vllm import VLLM

__all__ = [
    "COMMANDS",
    "ENVIRONMENT",
    "FOREIGN_KEYS",
    "FOREIGN_VALUES",
    "PYTHON",
    "SAME",
    "TABLES",
    "Convert",
    "Foreign",
    "Hint",
    "Variable",
    "attribute",
    "command",
    "environment",
    "meanings",
    "option",
]

TABLES: Mapping[str, tuple[Foreign, ...]] = {
    "LMDeploy": LMDEPLOY,
    "vLLM": VLLM,
    "SGLang": SGLANG,
    "Ollama and llama.cpp": OLLAMA,
    "TGI": TGI,
    "Others": OTHERS,
}


@functools.cache
def _by_name() -> dict[str, tuple[Foreign, ...]]:
    found: dict[str, tuple[Foreign, ...]] = {}
    for table in TABLES.values():
        for entry in table:
            # A name that is ours as well needs no translation, only the right section.
            if entry.here is None or entry.here.rpartition(".")[2] != entry.name:
                found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def meanings(name: str) -> tuple[Foreign, ...]:
    """What a name in snake case means to the servers that have it; empty for one that none has."""
    return _by_name().get(name, ())


def option(flag: str) -> str | None:
    """What another server's option (`--max-model-len`) is on our command lines; None for one that none has."""
    name = flag.removeprefix("--").partition("=")[0].replace("-", "_")
    found = [entry for table in TABLES.values() for entry in table if entry.name == name]
    if not flag.startswith("--") or not found:
        return None
    owners = " and ".join(dict.fromkeys(entry.owner for entry in found))
    keys = list(dict.fromkeys(entry.here for entry in found if entry.here is not None))
    if not keys:
        return f"{flag} is an option of {owners}; here {found[0].note}"
    ways = " or ".join(f"--set {key}=VALUE" for key in keys)
    return f"{flag} is an option of {owners}; here it is {ways}"


FOREIGN_KEYS: Mapping[str, Foreign] = {name: entries[0] for name, entries in _by_name().items()}
"""The names that aren't ours, with the first of their meanings."""
