"""Keys added to a recipe's text, with everything that stands there left as it is.

A text is changed by the places of its parsed document; a change is a line or a piece of one, so that comments, order
and style stay the writer's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploykit.recipe.diagnostics import KeyPath
from deploykit.recipe.dump import dump_yaml
from deploykit.recipe.loader import APPEND, Document, parse

_NOT_IN_FLOW = re.compile(r"[\n\[\]{},]|^[\s#]|: |:$| #")


def put(text: str, path: KeyPath, value: Any, comment: str = "") -> str:
    """`text` with a key of this value; sections on the way are made where there are none.

    `comment` stands above a key that is added. In a section that is written `{…}` there is no place for one. A key
    that is there keeps its line; its value has to be a plain one.
    """
    document = parse(text, "recipe", overlay=True)
    if path in document.places:
        return _instead(document, path, value, comment)
    depth = 0
    section: Any = document.data
    while depth < len(path) - 1 and isinstance(section, dict) and isinstance(section.get(path[depth]), dict):
        section = section[path[depth]]
        depth += 1
    made = path[depth + 1 :]  # below a section that is made
    for name in reversed(made):
        value = {name: value}
    at, key = path[:depth], path[depth]
    if at and document.places[at].value.length and _is_flow(document, at):
        return _into_flow(document, at, str(key), value)
    return _into_block(document, at, str(key), value, comment, len(made))


def put_before(text: str, path: KeyPath, items: Sequence[Any]) -> str:
    """`text` with these items before those of a list that is tagged `!append`, and without the tag.

    Raises ValueError where the list is written in a way that no line can be added to.
    """
    place = parse(text, "recipe", overlay=True).places[path].value
    lines = text.splitlines()
    at, start = place.line - 1, place.col - 1
    line = lines[at]
    if not line.startswith(APPEND, start):
        raise ValueError(f"the tag of {path} isn't where its value starts")
    rest = line[start + len(APPEND) :].lstrip()
    if rest.startswith("["):
        inner = rest[1:].lstrip()
        end = "" if inner.startswith("]") else ", "
        lines[at] = f"{line[:start]}[{', '.join(map(in_a_line, items))}{end}{inner}"
        return "\n".join(lines)
    first = next((n for n in range(at + 1, len(lines)) if lines[n].strip()), at)
    while first < len(lines) - 1 and lines[first].lstrip().startswith("#"):
        first += 1
    dash = lines[first].lstrip()
    if (rest and not rest.startswith("#")) or not dash.startswith("- "):
        raise ValueError(f"the list at {path} is neither in one line nor an item a line")
    indent = lines[first][: -len(dash)]
    lines[at] = f"{line[:start]}{rest}".rstrip()
    lines[at + 1 : at + 1] = [f"{indent}- {in_a_line(item)}" for item in items]
    return "\n".join(lines)


def drop(text: str, key: str) -> str:
    """`text` without a top-level key, and without the comments that stand right above it."""
    document = parse(text, "recipe", overlay=True)
    place = document.places.get((key,))
    if place is None or place.key is None:
        return text
    lines = list(document.source.lines)
    end = max(p.value.line for path, p in document.places.items() if path[:1] == (key,))
    start = above = place.key.line - 1
    while above > 0 and lines[above - 1].startswith("#"):
        above -= 1
    if above > 0:  # a comment that begins the file tells of the whole file
        start = above
    if start > 0 and not lines[start - 1].strip() and end < len(lines) and not lines[end].strip():
        end += 1
    return "\n".join(lines[:start] + lines[end:])


def written(value: dict[str, Any], indent: int = 0) -> list[str]:
    """A section's keys as lines of YAML."""
    return [f"{' ' * indent}{line}".rstrip() for line in dump_yaml(value).splitlines()]


def in_a_line(value: Any) -> str:
    """A value as YAML's flow style writes it: `[a, b]`, `{x: 1}`, `text`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{in_a_line(key)}: {in_a_line(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_a_line, value)) + "]"
    if isinstance(value, str) and (_NOT_IN_FLOW.search(value) or not value):
        return json.dumps(value, ensure_ascii=False)
    return dump_yaml({"k": value}).removeprefix("k: ").rstrip("\n")


def _instead(document: Document, path: KeyPath, value: Any, comment: str) -> str:
    """The value of a key that is there, and above its line a comment, where the line is the key's own."""
    place = document.places[path]
    if not place.value.length or place.key is None:
        raise ValueError(f"{path} holds no plain value")
    lines = list(document.source.lines)
    at, start = place.value.line - 1, place.value.col - 1
    line = lines[at]
    lines[at] = line[:start] + in_a_line(value) + line[start + place.value.length :]
    indent = place.key.col - 1
    if comment and not line[:indent].strip():
        lines[at:at] = [f"{' ' * indent}# {part}" for part in comment.splitlines()]
    return "\n".join(lines)


def _is_flow(document: Document, at: KeyPath) -> bool:
    place = document.places[at].value
    return document.source.lines[place.line - 1][place.col - 1 : place.col] == "{"


def _into_flow(document: Document, at: KeyPath, key: str, value: Any) -> str:
    place = document.places[at].value
    lines = list(document.source.lines)
    line = lines[place.line - 1]
    rest = line[place.col :].lstrip()
    end = "" if rest.startswith("}") else ", "
    lines[place.line - 1] = f"{line[: place.col]}{key}: {in_a_line(value)}{end}{rest}"
    return "\n".join(lines)


def _into_block(document: Document, at: KeyPath, key: str, value: Any, comment: str, below: int) -> str:
    """A new key at a section's end; the comment stands `below` sections further in."""
    lines = list(document.source.lines)
    depth = len(at)
    children = [
        p for path, p in document.places.items() if len(path) == depth + 1 and path[:depth] == at and p.key
    ]
    indent = min((p.key.col - 1 for p in children if p.key), default=2 * depth)
    new = written({key: value}, indent)
    if comment:
        inner = " " * (indent + 2 * below)
        new[below:below] = [f"{inner}# {part}" for part in comment.splitlines()]
    end = _end_of(document, at, lines, indent)
    if not at and end and lines[end - 1].strip():
        new = ["", *new]
    return "\n".join(lines[:end] + new + lines[end:])


def _end_of(document: Document, at: KeyPath, lines: Sequence[str], indent: int) -> int:
    """How many lines there are up to the end of a section, the comments about what follows it aside."""
    end = len(lines)
    if at:
        first = document.places[at].key
        start = first.line if first else 0
        later = [
            p.key.line
            for path, p in document.places.items()
            if p.key is not None and path[: len(at)] != at and p.key.line > start
        ]
        end = min(later, default=len(lines) + 1) - 1
    while end > 0:
        line = lines[end - 1]
        own = len(line) - len(line.lstrip())
        if line.strip() and not (at and line.lstrip().startswith("#") and own < indent):
            break
        end -= 1
    return end


def with_modeline(text: str, folder: Path) -> str:
    """`text` for a file in `folder`, with the line that tells editors where the schema is."""
    from deploykit import shipped

    schema = shipped.schema_path()
    folder = folder.resolve()
    checkout = schema.parent.parent
    name = os.path.relpath(schema, folder) if folder.is_relative_to(checkout) else str(schema)
    line = f"# yaml-language-server: $schema={name}"
    lines = text.splitlines()
    if lines and lines[0].startswith("# yaml-language-server:"):
        lines[0] = line
    else:
        lines[:0] = [line]
    return "\n".join(lines) + "\n"
