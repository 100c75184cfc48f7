"""The schema as a tree: which keys a section has, and what a value must be, in words."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .diagnostics import KeyPath
from .schema_file import recipe_schema

FILE_KEYS = ("extends", "vars", "profiles")
"""Keys at the top of a recipe's file that are gone when it is merged."""


@dataclass(frozen=True)
class Node:
    """One place of the schema: a section, a list or a value."""

    schema: Mapping[str, Any]
    name: str = ""  # of the pydantic model, for a section

    @functools.cached_property
    def alternatives(self) -> tuple[Node, ...]:
        """What it may be instead of null; one Node unless it is a union."""
        options = self.schema.get("anyOf")
        if options is None:
            return (self,)
        return tuple(_resolve(option) for option in options if option.get("type") != "null")

    @functools.cached_property
    def solid(self) -> Node:
        """The one alternative, or the union itself."""
        return self.alternatives[0] if len(self.alternatives) == 1 else self

    @property
    def nullable(self) -> bool:
        return any(option.get("type") == "null" for option in self.schema.get("anyOf", ()))

    @property
    def keys(self) -> Mapping[str, Any]:
        properties: Mapping[str, Any] = self.solid.schema.get("properties", {})
        return properties

    @property
    def required(self) -> Sequence[str]:
        required: Sequence[str] = self.solid.schema.get("required", ())
        return required

    @property
    def is_section(self) -> bool:
        return "properties" in self.solid.schema

    @property
    def is_list(self) -> bool:
        return self.solid.schema.get("type") == "array"

    @property
    def is_text(self) -> bool:
        """Any text is of the right type: not a choice, a size or a number."""
        return self.solid.schema.get("type") == "string" and not self.choices

    @functools.cached_property
    def is_section_union(self) -> bool:
        return len(self.alternatives) > 1 and all(option.is_section for option in self.alternatives)

    @property
    def choices(self) -> list[Any]:
        """The values it must be one of, numbers included; empty if it isn't a choice."""
        schema = self.solid.schema
        return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))

    @functools.cached_property
    def _children(self) -> dict[str | int, Node]:
        children: dict[str | int, Node] = {key: _resolve(schema) for key, schema in self.keys.items()}
        return {0: _resolve(self.solid.schema["items"])} if self.is_list else children

    def child(self, segment: str | int) -> Node | None:
        """What a key holds, or any item of a list."""
        return self._children.get(0 if isinstance(segment, int) else segment)

    def branch(self, keys: Iterable[str]) -> list[Node]:
        """Of a union of sections, those that one of `keys` picks: by the first key that each of them requires."""
        present = set(keys)
        return [option for option in self.alternatives if option.required[0] in present]

    @property
    def expected(self) -> str:
        """`a whole number from 1 to 64`, to go on after `must be`."""
        if self.is_section_union:
            names = [f"`{option.required[0]}`" for option in self.alternatives]
            return f"a section with {_either(names)}"
        words = dict.fromkeys(_words(option) for option in self.alternatives)
        if sized := next((w for w in words if w.startswith(("a size", "a duration"))), None):
            return sized  # the words for the written form name the number too
        return _either(list(words))


@functools.cache
def root() -> Node:
    return Node(recipe_schema())


def lookup(path: KeyPath) -> Node | None:
    """The schema at a path of data. In a union of sections every branch is looked into."""
    nodes = [root()]
    for segment in path:
        options = [option for node in nodes for option in node.alternatives]
        nodes = [child for option in options if (child := option.child(segment)) is not None]
    return nodes[0] if nodes else None


@functools.cache
def sections_by_key() -> dict[str, list[str]]:
    """For every key of the language, the sections that have it: `ratio` -> `["engine.cache"]`."""
    index: dict[str, list[str]] = {}

    def walk(node: Node, path: str) -> None:
        for option in node.alternatives:
            for key in option.keys:
                places = index.setdefault(key, [])
                if path not in places:
                    places.append(path)
                child = option.child(key)
                if child is not None:
                    walk(child, f"{path}.{key}" if path else key)
            if option.is_list:
                item = option.child(0)
                if item is not None:
                    walk(item, f"{path}[]")

    walk(root(), "")
    for key in FILE_KEYS:
        index.setdefault(key, []).insert(0, "")
    return index


def _resolve(schema: Mapping[str, Any]) -> Node:
    reference = schema.get("$ref")
    if reference is None:
        return Node(schema)
    name = reference.rpartition("/")[2]
    return Node(recipe_schema()["$defs"][name], name)


def _words(node: Node) -> str:
    schema = node.schema
    if message := schema.get("patternErrorMessage"):
        return str(message).removeprefix("must be ")
    if choices := node.choices:
        return _either([str(choice) if isinstance(choice, int) else f"`{choice}`" for choice in choices])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(schema)
    if kind == "array":
        item = node.child(0)
        listed = "texts" if item is not None and item.is_text else "sections"
        least, most = schema.get("minItems"), schema.get("maxItems")
        return f"a list of {f'at least {least} ' if least else ''}{f'up to {most} ' if most else ''}{listed}"
    if kind == "string":
        return "a text that isn't empty" if schema.get("minLength") else "a text"
    return {"boolean": "true or false", "object": "a section of keys"}[str(kind)]


def _range(schema: Mapping[str, Any]) -> str:
    low, above, high = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if low is not None and high is not None:
        return f" from {low} to {high}"
    parts = [f"above {above}"] if above is not None else []
    parts += [f"of at least {low}"] if low is not None else []
    parts += [f"at most {high}"] if high is not None else []
    return f" {' and '.join(parts)}" if parts else ""


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
