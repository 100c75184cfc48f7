"""What other servers call the things that a recipe sets, and how they write the values.

One table for the diagnostics, for the hints of the Python API and for docs/coming-from.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from .entry import SAME, Convert, Foreign
from .lmdeploy import LMDEPLOY
from .ollama import OLLAMA
from .sglang import SGLANG
from .tgi import OTHERS, TGI
from .values import FOREIGN_VALUES
from .vllm import VLLM

__all__ = ["FOREIGN_KEYS", "FOREIGN_VALUES", "SAME", "TABLES", "Convert", "Foreign", "meanings"]

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


FOREIGN_KEYS: Mapping[str, Foreign] = {name: entries[0] for name, entries in _by_name().items()}
"""The names that aren't ours, with the first of their meanings."""
