"""Whether a merged recipe is valid, by the schema as data: the yes or no of the models, without building them.

Only a recipe that is refused needs the models, which say what is wrong. A test holds the two to one another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from .plain import MAX_DURATION, MAX_SIZE, parse_duration, parse_size
from .schema_file import recipe_schema

KEYWORDS = frozenset(
    [
        "$ref",
        "anyOf",
        "const",
        "enum",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
    ]
)
"""What is looked at. Beside it stand only words for people, and what `cross.conflicts` checks."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def accepts(data: Any) -> bool:
    """Whether every key and value is of the schema. Contradictions between keys are `cross.conflicts`' to find."""
    schema = recipe_schema()
    return _accepts(data, schema, schema["$defs"])


def _accepts(value: Any, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool:
    if (reference := schema.get("$ref")) is not None:
        return _accepts(value, definitions[reference.rpartition("/")[2]], definitions)
    if (options := schema.get("anyOf")) is not None:
        return any(_accepts(value, option, definitions) for option in options)
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices is not None and not any(type(value) is type(choice) and value == choice for choice in choices):
        return False
    kinds = schema.get("type", ())
    if kinds and type(value) not in [
        t for kind in ([kinds] if isinstance(kinds, str) else kinds) for t in _TYPES[kind]
    ]:
        return False
    if isinstance(value, dict):
        return _accepts_section(value, schema, definitions)
    if isinstance(value, list):
        inner = schema["items"]
        counts = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)
        return counts and all(_accepts(item, inner, definitions) for item in value)
    if isinstance(value, str):
        return _accepts_text(value, schema)
    return isinstance(value, bool) or value is None or _accepts_number(value, schema)


def _accepts_section(
    value: dict[str, Any], schema: Mapping[str, Any], definitions: Mapping[str, Any]
) -> bool:
    properties = schema["properties"]
    if any(key not in value for key in schema.get("required", ())):
        return False
    return all(
        key in properties and _accepts(inner, properties[key], definitions) for key, inner in value.items()
    )


def _accepts_text(value: str, schema: Mapping[str, Any]) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        return False
    pattern = schema.get("pattern")
    if pattern is None:
        return True
    # Not `match`: its `$` takes a line break at the end for the end.
    if re.fullmatch(pattern.removeprefix("^").removesuffix("$"), value) is None:
        return False
    words = schema.get("patternErrorMessage", "")
    if words.startswith("must be a size"):
        return bool(parse_size(value) <= MAX_SIZE)
    return not words.startswith("must be a duration") or bool(parse_duration(value) <= MAX_DURATION)


def _accepts_number(value: float, schema: Mapping[str, Any]) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    above = schema.get("exclusiveMinimum")
    least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    return bool(least <= value <= most and (above is None or value > above))
