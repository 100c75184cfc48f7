"""The recipe's JSON Schema (draft 2020-12), generated from the pydantic models.

python -m deploykit.recipe.jsonschema --write schemas/recipe.v1.json
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

from .schema import Recipe

SCHEMA_ID = "urn:deploykit:recipe:v1"

# Exactly one origin, and a revision only beside an id: what `schema.origin_conflict` checks.
_ORIGINS = [
    {"required": [key], "properties": {key: {"not": {"type": "null"}}}} for key in ("id", "path", "sources")
]


@functools.cache
def recipe_schema() -> dict[str, Any]:
    """The schema as data. Treat it as read-only: it is built once."""
    schema = Recipe.model_json_schema(mode="validation")
    _drop_titles(schema)
    model = schema["$defs"]["ModelSection"]
    model["oneOf"] = _ORIGINS
    model["dependentRequired"] = {"revision": ["id"]}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "deploykit recipe, version 1",
    }
    return {**head, **schema}


def recipe_schema_text() -> str:
    """The schema as the committed file holds it."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


def _drop_titles(node: Any) -> None:
    """pydantic titles every key by its own name, which says nothing."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for value in node.values():
            _drop_titles(value)
    elif isinstance(node, list):
        for value in node:
            _drop_titles(value)


def main(argv: list[str]) -> int:
    """`--write FILE` writes the schema there; without it, it is printed."""
    if not argv:
        sys.stdout.write(recipe_schema_text())
        return 0
    if len(argv) != 2 or argv[0] != "--write":
        sys.stderr.write("usage: python -m deploykit.recipe.jsonschema [--write FILE]\n")
        return 2
    from deploykit.fsutil import write_atomic

    write_atomic(Path(argv[1]), recipe_schema_text().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
