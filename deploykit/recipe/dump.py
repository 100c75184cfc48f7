"""A merged recipe as YAML that reads back to the same recipe, and as a list of its values with their origins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from .diagnostics import KeyPath, Place, dotted
from .document import copied
from .layers import ENVIRONMENT, SET
from .loader import Document, holds_secret
from .paths import path_values
from .recipe import LoadedRecipe
from .scalars import NumberTooLarge, resolve_plain
from .tree import Node, lookup, root

HIDDEN = "***"

_REFERENCE = re.compile(r"\$(?=[${])")
_SPECIAL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]"
)  # line breaks to YAML, or not to be seen


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from. `kind` is file, environment, set, target or default.

    A value of a file has its place and, inside of one, its profile; `line` and `col` count from 1. `variable` is the
    name of an environment variable `DEPLOYKIT_SET__…`, and `references` are the variables that a file's value is
    written with: `vars.x from base.yaml:3:7`, `env X`.
    """

    kind: str
    file: str | None = None
    line: int | None = None
    col: int | None = None
    profile: str | None = None
    variable: str | None = None
    references: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "file":
            text = f"{self.file}:{self.line}:{self.col}"
            parts = [f"profile {self.profile}"] if self.profile else []
            parts += self.references
            return f"{text} ({', '.join(parts)})" if parts else text
        return {"environment": self.variable or "", "set": "--set"}.get(self.kind, self.kind)


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a recipe, as the recipe would write it; secrets are hidden."""

    path: KeyPath
    value: Any
    origin: Origin

    @property
    def key(self) -> str:
        return (
            ".".join(str(s) for s in self.path)
            if not any(isinstance(s, int) for s in self.path)
            else dotted(self.path)
        )


def merged_data(loaded: LoadedRecipe) -> dict[str, Any]:
    """What the recipe's layers come to, without defaults: paths absolute, secrets as references or hidden."""
    data: dict[str, Any] = copied(loaded.merged.data)
    for path, text in path_values(loaded.recipe):
        if _at(data, path) is not None:
            _put(data, path, text)
    found: dict[str, Any] = _ordered(_hide(data, (), loaded.merged), root())
    return found


def to_yaml(loaded: LoadedRecipe) -> str:
    """`merged_data` as YAML, in which nothing is taken for a reference that isn't one."""
    return dump_yaml(_escaped(merged_data(loaded), (), loaded.merged))


def dump_yaml(data: Any) -> str:
    """Plain data as YAML that a recipe's reader takes back as it is."""
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20, default_flow_style=False
    )
    return text


def values_of(loaded: LoadedRecipe) -> list[Value]:
    """Every value that the recipe has, defaults too, in the order of the schema."""
    shown = merged_data(loaded)
    return [
        Value(path, _at(shown, path) if given else written_default(path, value), origin)
        for path, value, origin, given in _walk(loaded.recipe, (), shown, loaded.merged)
    ]


def written_default(path: KeyPath, value: Any) -> Any:
    """A default as a recipe would write it: sizes and durations with their units."""
    node = lookup(path)
    words = node.expected if node is not None else ""
    if words.startswith("a size") and isinstance(value, int) and value:
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value % size == 0:
                return f"{value // size}{unit}"
    if words.startswith("a duration") and isinstance(value, float):
        return f"{value / 60:g}m" if value and value % 60 == 0 else f"{value:g}s"
    return value


def _walk(
    value: Any, path: KeyPath, data: Any, merged: Document
) -> Iterator[tuple[KeyPath, Any, Origin, bool]]:
    """(path, value, origin, whether it is given) of every value that isn't a section or a list of some."""
    if isinstance(value, BaseModel):
        for key in type(value).model_fields:
            inner = data.get(key, _NONE) if isinstance(data, Mapping) else _NONE
            yield from _walk(getattr(value, key), (*path, key), inner, merged)
    elif isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
        for number, item in enumerate(value):
            inner = data[number] if isinstance(data, list) and number < len(data) else _NONE
            yield from _walk(item, (*path, number), inner, merged)
    elif data is _NONE:
        yield path, value, Origin("default"), False
    else:
        yield path, value, origin_of(path, merged), True


_NONE: Any = object()


def origin_of(path: KeyPath, merged: Document) -> Origin:
    """Where the value at a path was written; of a list, where the list is."""
    place = next(
        (merged.places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in merged.places), None
    )
    if place is None:
        return Origin("target")
    if not place.source.is_file:
        line = place.source.lines[0]
        if place.source.name == ENVIRONMENT:
            return Origin("environment", variable=line.partition("=")[0])
        return Origin("set")
    derived = merged.derived.get(path)
    span = _span(place)
    references = tuple(_reference(name, merged) for name in derived.origins) if derived else ()
    return Origin("file", place.source.name, span[0], span[1], place.profile or None, None, references)


def _reference(name: str, merged: Document) -> str:
    """`vars.ctx from base.yaml:3:7`, `env X`."""
    kind, _, variable = name.partition(".")
    place = merged.places.get(("vars", variable)) if kind == "vars" else None
    if place is None:
        return name
    if not place.source.is_file:
        return f"{name} from {place.source.lines[0].partition('=')[0] if place.source.name == ENVIRONMENT else SET}"
    line, col = _span(place)
    profile = f", profile {place.profile}" if place.profile else ""
    return f"{name} from {place.source.name}:{line}:{col}{profile}"


def _span(place: Place) -> tuple[int, int]:
    span = place.key if place.key is not None and place.value.length == 0 else place.value
    return span.line, span.col


def _ordered(data: Any, node: Node) -> Any:
    """With the keys of sections in the order of the schema."""
    if not isinstance(data, dict) or not node.is_section:
        return data
    found: dict[str, Any] = {}
    for key in (*(key for key in node.keys if key in data), *data):
        child = node.child(key)
        found.setdefault(key, _ordered(data[key], child) if child is not None else data[key])
    return found


def _hide(value: Any, path: KeyPath, merged: Document) -> Any:
    if isinstance(value, dict):
        return {key: _hide(inner, (*path, key), merged) for key, inner in value.items()}
    if isinstance(value, list):
        return [_hide(inner, (*path, number), merged) for number, inner in enumerate(value)]
    derived = merged.derived.get(path)
    if derived is not None and derived.secret:
        return derived.written
    if isinstance(value, str) and holds_secret(path) and path[-1] not in ("env", "file"):
        return HIDDEN
    return value


def _escaped(value: Any, path: KeyPath, merged: Document) -> Any:
    """With `$$` for each `$` that would begin a reference."""
    if isinstance(value, dict):
        return {key: _escaped(inner, (*path, key), merged) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner, (*path, number), merged) for number, inner in enumerate(value)]
    derived = merged.derived.get(path)
    if not isinstance(value, str) or (derived is not None and derived.secret):
        return value
    return _REFERENCE.sub("$$", value)


def _at(data: Any, path: KeyPath) -> Any:
    for step in path:
        if data is None:
            return None
        data = data[int(step)] if isinstance(data, list) else data.get(step)
    return data


def _put(data: Any, path: KeyPath, value: Any) -> None:
    for step in path[:-1]:
        data = data[step]
    data[path[-1]] = value


class _Dumper(yaml.SafeDumper):
    """PyYAML writes for readers of YAML 1.1; ours are of 1.2: quotes where either would read something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        plain = resolve_plain(text)
    except NumberTooLarge:
        plain = None
    if plain != text or not isinstance(plain, str) or _SPECIAL.search(text):
        style = '"'
    elif "\n" in text and _is_block(text):
        style = "|"
    else:
        style = ""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style or None)


def _is_block(text: str) -> bool:
    """Whether a block holds the text as it is: PyYAML writes no block where it wouldn't."""
    return not text.startswith((" ", "\n")) and not any(line.endswith(" ") for line in text.split("\n"))


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:float", repr(value))


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _float)
