"""What each shipped recipe is, in a row: read from the recipe, what it extends, and its model's description.

Recipes are read as YAML, and not validated: a list of them has to be there at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploykit import shipped

_BRACES = re.compile(r"\{([^{}]*)\}")
_PACKED = {"awq": 4, "gptq": 4}  # bits of a weight, whose matrices are packed into int32
_CONTEXT = ("max_position_embeddings", "seq_length", "n_positions", "max_sequence_length")


@dataclass(frozen=True)
class Entry:
    """A shipped recipe. What nothing tells of is None."""

    name: str
    path: Path
    description: str
    model: str  # an id, or the first source
    family: str | None = None  # model_type of config.json
    parameters: int | None = None
    context: int | None = None  # tokens that the model was trained for
    profiles: tuple[str, ...] = ()
    requires: dict[str, Any] = field(default_factory=dict)
    unsupported: str | None = None  # why no engine runs it
    problem: str | None = None  # why the recipe can't be read


def entries() -> list[Entry]:
    """All shipped recipes, by name. One that can't be read is among them, with its problem."""
    return [entry(name) for name in shipped.names()]


def entry(name: str) -> Entry:
    """One of them. Raises ConfigError where there is none of that name."""
    from deploykit.recipe.compose import read_layers
    from deploykit.recipe.files import read_file

    path = shipped.path(name)
    document = read_file(path)
    layers = read_layers(document, path)
    problems = [*document.problems, *layers.problems]
    if not isinstance(document.data, dict):
        why = problems[0].message if problems else "it holds no section of keys"
        return Entry(name=name, path=path, description="", model="", problem=why)
    merged = layers.merged(document)
    data: dict[str, Any] = merged.data
    model, requires, unsupported = data.get("model"), data.get("requires"), data.get("unsupported")
    facts = model.get("facts") if isinstance(model, dict) else None
    place = merged.places.get(("model", "facts"))
    found = _facts(Path(place.source.name).parent / facts) if isinstance(facts, str) and place else {}
    return Entry(
        name=name,
        path=path,
        description=str(data.get("description", "")),
        model=_origin(model) if isinstance(model, dict) else "",
        profiles=tuple(layers.profiles),
        requires=dict(requires) if isinstance(requires, dict) else {},
        unsupported=str(unsupported).strip() if unsupported else None,
        problem=problems[0].message if problems else None,
        **found,
    )


def _origin(model: dict[str, Any]) -> str:
    """The model's name: an id, of several sources the one on a hub."""
    sources = model.get("sources")
    places = [model, *(s for s in sources if isinstance(s, dict))] if isinstance(sources, list) else [model]
    named = (place.get(key) for key in ("id", "hf", "modelscope", "pypi", "path") for place in places)
    return str(next(filter(None, named), ""))


def _facts(path: Path) -> dict[str, Any]:
    """What a description of a checkpoint says; nothing where it can't be read (`validate` and `plan` tell why)."""
    try:
        data = json.loads(path.read_bytes())
        config = data["config"]
        whole = config.get("thinker_config") or config  # Qwen-Omni
        parts = ("text_config", "llm_config", "language_config")
        text: dict[str, Any] = next((whole[k] for k in parts if isinstance(whole.get(k), dict)), {})
        context = next((c[k] for c in (text, config) for k in _CONTEXT if isinstance(c.get(k), int)), None)
        bits = _PACKED.get(str((config.get("quantization_config") or {}).get("quant_method", "")))
        parameters = sum(_elements(name, *spec, bits=bits) for name, spec in data["tensors"].items())
        return {"family": config.get("model_type"), "context": context, "parameters": parameters or None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _elements(name: str, shape: list[int], dtype: str, *_: str, bits: int | None) -> int:
    """Weights that a line of `tensors` stands for; of a packed matrix those in it, and neither zeros nor scales."""
    if bits and name.endswith((".scales", ".qzeros", ".g_idx")):
        return 0
    count = 1
    for size in shape:
        count *= size
    for braces in _BRACES.findall(name):
        count *= sum(_range(part) for part in braces.split(","))
    return count * (32 // bits) if bits and dtype == "int32" else count


def _range(part: str) -> int:
    first, dash, last = part.partition("-")
    return int(last) - int(first) + 1 if dash and first.isdecimal() and last.isdecimal() else 1


def families() -> Iterator[str]:
    yield from sorted({e.family for e in entries() if e.family})
