"""The tables of docs/recipes.md, generated from the schema: every key with values, default, example and engines.

python -m deploykit.recipe.reference --write docs/recipes.md

writes what stands between the two marks of that page; the rest of it is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .guide import GUIDE, SECTIONS, Guide
from .honoured import HONOURED, honoured_by, refusals
from .tree import Node, root

BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"
# Read and taken out before the schema sees a recipe.
_LANGUAGE = {
    "extends": ("a path, or a list of paths", "Recipes that this one is laid over."),
    "vars": ("a section of names and values", "Variables."),
    "profiles": ("a section of names, each a section of keys", "Variants by name."),
    "x-*": ("anything", "Not read."),
}


class Entry(NamedTuple):
    """One key. `path` is dotted, an entry of a list is `[]`, and a key of one kind of entry has the kind before it."""

    path: str
    name: str
    values: str
    default: str  # as a recipe writes it, "required", or in words
    engines: str  # who honours it, in Markdown
    about: str
    guide: Guide

    @property
    def example(self) -> str:
        """`key: value`, as it stands in a recipe."""
        key = "x-notes" if self.name == "x-*" else self.name
        return f"{key}: {self.guide.example}"


def sections() -> Iterator[tuple[str, list[Entry]]]:
    """Every section with its keys, in the order of the language."""
    yield from _section("", root())


def entry(path: str) -> Entry | None:
    """The key at a dotted path; None where there is none. What `deploykit schema KEY` shows."""
    return next((one for _, entries in sections() for one in entries if one.path == path), None)


def _section(path: str, node: Node) -> Iterator[tuple[str, list[Entry]]]:
    entries = [_entry(path, key, node) for key in node.keys]
    if not path:
        language = [
            Entry(name, name, values, "–", "every engine", about, GUIDE[name])
            for name, (values, about) in _LANGUAGE.items()
        ]
        entries = [language[0], *entries, *language[1:]]
    yield path, entries
    for key in node.keys:
        child = node.child(key)
        if child is None:
            continue
        below = f"{path}.{key}" if path else key
        item = child.solid.child(0) if child.is_list else child
        if item is not None and item.is_section_union:
            yield (
                f"{below}[]",
                [_of_kind(below, option, name) for option in item.alternatives for name in option.keys],
            )
        elif item is not None and item.is_section:
            yield from _section(below, item.solid)


def _entry(path: str, key: str, section: Node) -> Entry:
    full = f"{path}.{key}" if path else key
    node = section.child(key) or section
    default = "required" if key in section.required else default_of(section.keys[key], node)
    if full == "name":
        default = "the file's name"
    return Entry(
        full, key, values_of(node), default, honoured_by(full), _about(section.keys[key], node), GUIDE[full]
    )


def _of_kind(path: str, option: Node, key: str) -> Entry:
    """A key of one kind of entry: `file` goes with `pypi` and with `hf`, and isn't the same."""
    kind = option.required[0]
    node = option.child(key) or option
    full = f"{path}[].{kind}" if key == kind else f"{path}[].{kind}.{key}"
    default = "required" if key in option.required else default_of(option.keys[key], node)
    about = _about(option.keys[key], node)
    return Entry(full, key, values_of(node), default, "every engine", about, GUIDE[full])


def _about(schema: Mapping[str, Any], node: Node) -> str:
    """The schema's own description."""
    return str(schema.get("description") or node.solid.schema.get("description") or "")


def values_of(node: Node) -> str:
    """What a value may be, in words; `null` is said once, for all keys."""
    if node.is_section and not node.is_list:
        return "a section"
    if form := node.schema.get("patternErrorMessage"):
        return str(form).removeprefix("must be ")
    words = node.expected
    return next((kind for kind in ("a size", "a duration") if words.startswith(kind)), words)


def default_of(schema: Mapping[str, Any], node: Node) -> str:
    """The default as a recipe writes it."""
    if node.is_section and "default" not in schema:
        return "{}"
    value = schema.get("default")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if node.expected.startswith("a size") and isinstance(value, int):
        return _unit(value, ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")))
    if node.expected.startswith("a duration") and isinstance(value, int | float):
        return _unit(round(value * 1000), ((3600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")))
    return '""' if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def _unit(value: int, units: tuple[tuple[int, str], ...]) -> str:
    size, unit = next((size, unit) for size, unit in units if value % size == 0)
    return f"{value // size}{unit}"


# ---------------------------------------------------------------- the page


def text() -> str:
    """What stands between the marks."""
    parts = []
    for path, entries in sections():
        parts.append(f"### {f'`{path}`' if path else 'Top level'}")
        if about := SECTIONS.get(path):
            parts.append(about)
        parts.append(_table(path, entries))
        parts += _reasons(entries)
    return "\n\n".join(parts) + "\n"


def _table(path: str, entries: list[Entry]) -> str:
    head = ("key", "values", "default", "example", "honoured by", "what it is", "why you would set it")
    lines = [head, tuple("---" for _ in head)]
    for one in entries:
        kind = one.path.removeprefix(f"{path}.").partition(".")[0]
        name = (
            f"`{one.name}` (with `{kind}`)" if path.endswith("[]") and kind != one.name else f"`{one.name}`"
        )
        plain = one.default in ("required", "the file's name", "–")
        default = one.default if plain else f"`{one.default}`"
        lines.append((name, one.values, default, f"`{one.example}`", one.engines, one.about, one.guide.why))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _reasons(entries: list[Entry]) -> list[str]:
    """Why an engine refuses what it refuses."""
    lines = [f"- {refusal}" for one in entries if one.path in HONOURED for refusal in refusals(one.path)]
    return ["`plan` and `up` refuse, with this reason:", "\n".join(lines)] if lines else []


def filled(page: str) -> str:
    """A page with the generated part between its marks. Raises ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{text()}\n{END}{after}"


def main(argv: list[str]) -> int:
    """`--write FILE` fills that page; without it, the generated part is printed."""
    if not argv:
        sys.stdout.write(text())
        return 0
    if len(argv) != 2 or argv[0] != "--write":
        sys.stderr.write("usage: python -m deploykit.recipe.reference [--write FILE]\n")
        return 2
    from deploykit.fsutil import write_atomic

    page = Path(argv[1])
    write_atomic(page, filled(page.read_text()).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
