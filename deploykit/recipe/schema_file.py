"""The schema of merged recipes as data, read from a file: building the models takes longer than checking a recipe.

`schema.json` is written by `python -m deploykit.recipe.jsonschema` and says of which sources it was made. Where those
have changed since, the schema is built from the models instead.
"""

from __future__ import annotations

import functools
import json
import zlib
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("schema.json")
SOURCES = ("schema.py", "schema_engine.py", "schema_types.py", "plain.py", "jsonschema.py")


@functools.cache
def recipe_schema() -> dict[str, Any]:
    """The schema as data. Treat it as read-only: it is read once."""
    schema = _read()
    if schema is None:
        from . import jsonschema

        return jsonschema.recipe_schema()
    return schema


def source_stamp() -> int:
    """A number that changes with the sources of the schema."""
    stamp = 0
    for name in SOURCES:
        stamp = zlib.crc32(FILE.with_name(name).read_bytes(), stamp)
    return stamp


def is_current() -> bool:
    """Whether the file was made of the present sources."""
    return _read() is not None


def _read() -> dict[str, Any] | None:
    try:
        found = json.loads(FILE.read_bytes())
        schema: dict[str, Any] = found["schema"]
        return schema if found["sources"] == source_stamp() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
