"""The recipe's JSON Schema (draft 2020-12), generated from the pydantic models.

python -m deploykit.recipe.jsonschema --write schemas/recipe.v1.json

That writes the schema for editors there, which knows what a file may hold (`extends`, `vars`, `profiles`, references);
and beside this module `schema.json`, the schema of merged recipes, which is read in place of building the models.
"""

from __future__ import annotations

import copy
import functools
import json
import sys
from pathlib import Path
from typing import Any

from .schema import Recipe
from .schema_file import FILE, is_current, source_stamp

SCHEMA_ID = "urn:deploykit:recipe:v1"

# Exactly one origin, and a revision only beside an id: what `plain.origin_conflict` checks.
_ORIGINS = [
    {"required": [key], "properties": {key: {"not": {"type": "null"}}}} for key in ("id", "path", "sources")
]


_REFERENCE = {
    "type": "string",
    "pattern": r"\$\{(vars|env)\.",
    "description": "A reference: `${vars.NAME}`, `${env.NAME}`, `${env.NAME:-default}` or `${env.NAME:?message}`.",
}
_EXTENDS = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}},
    ],
    "description": "A recipe that this one is laid over, relative to this file; or several, the last on top.",
    "examples": ["_base/chat.yaml", ["_base/chat.yaml", "_base/server.yaml"]],
}
_VARS = {
    "type": "object",
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,62}$"},
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    "description": "Variables: `${vars.NAME}` stands for one. What extends the recipe, and profiles, may change them.",
    "examples": [{"ctx": 8192}],
}


@functools.cache
def recipe_schema() -> dict[str, Any]:
    """The schema of a merged recipe as data. Treat it as read-only: it is built once."""
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


@functools.cache
def file_schema() -> dict[str, Any]:
    """The schema of what a recipe's file may hold, for editors."""
    schema = copy.deepcopy(recipe_schema())
    definitions, sections = schema["$defs"], schema["properties"]
    model = definitions["ModelSection"]
    origin = {key: model.pop(key) for key in ("oneOf", "dependentRequired")}
    for section in (schema, *definitions.values()):
        for key, value in section["properties"].items():
            section["properties"][key] = _or_reference(value)
    definitions["Reference"] = _REFERENCE
    whole = {"required": schema.pop("required"), "properties": {"model": origin}}
    definitions["Profile"] = {
        "type": "object",
        "description": "Keys that are laid over the recipe with `--profile`.",
        "properties": {**sections, "vars": _VARS},
        "additionalProperties": False,
    }
    profiles = {
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"},
        "additionalProperties": {"$ref": "#/$defs/Profile"},
        "description": "Variants of the recipe by name: keys that `--profile NAME` lays over it.",
    }
    schema["properties"] = {"extends": _EXTENDS, **sections, "vars": _VARS, "profiles": profiles}
    schema["patternProperties"] = {"^x-": {"description": "Anything: for anchors and notes; not read."}}
    schema["anyOf"] = [
        {"required": ["extends"]},
        whole,
    ]  # what extends another recipe may have the rest from there
    return schema


def _or_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a key, or a text with a reference where the key takes no text of any kind."""
    options = schema.get("anyOf", [schema])
    if any("$ref" in o or o.get("type") in ("array", "object") for o in options) or (
        schema.get("type") == "string" and not (schema.keys() & {"pattern", "enum", "const"})
    ):
        return schema
    kept = ("description", "default", "examples")
    about: dict[str, Any] = {key: schema[key] for key in kept if key in schema}
    inner = [{key: value for key, value in o.items() if key not in about} for o in options]
    return {"anyOf": [*inner, {"$ref": "#/$defs/Reference"}], **about}


def recipe_schema_text() -> str:
    """The schema as the committed file holds it."""
    return json.dumps(file_schema(), indent=2, ensure_ascii=False) + "\n"


def package_schema_text() -> str:
    """What the package reads in place of building the models: the schema of merged recipes, and of which sources."""
    stamped = {"sources": source_stamp(), "schema": recipe_schema()}
    return json.dumps(stamped, ensure_ascii=False, separators=(",", ":")) + "\n"


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
    """`--write FILE` writes the schema there, and the package's own; without it, it is printed."""
    if not argv:
        sys.stdout.write(recipe_schema_text())
        return 0
    if len(argv) != 2 or argv[0] != "--write":
        sys.stderr.write("usage: python -m deploykit.recipe.jsonschema [--write FILE]\n")
        return 2
    from deploykit.fsutil import write_atomic

    write_atomic(Path(argv[1]), recipe_schema_text().encode())
    if not is_current():
        write_atomic(FILE, package_schema_text().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
