"""`deploykit schema [FIELD]`: the JSON Schema of recipes for editors, or one key of it for people."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploykit.recipe.tree import Node

    Path = tuple[str | int, ...]


def schema(
    field: Annotated[
        str | None,
        typer.Argument(
            metavar="FIELD",
            help="Explain this key alone, such as `engine.cache` or `model.sources[].hf`.",
            show_default=False,
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="With FIELD: its JSON Schema.")] = False,
) -> None:
    """Print the JSON Schema (draft 2020-12) of recipe files, or explain one key: values, default, meaning."""
    if field is None:
        from deploykit import shipped

        typer.echo(shipped.schema_path().read_text(encoding="utf-8"), nl=False)
        return
    path, node = _find(field)
    if json_:
        typer.echo(json.dumps(_fragment(node), indent=2, ensure_ascii=False))
    else:
        _explain(path, node)


def _find(field: str) -> tuple[Path, Node]:
    """The place that a dotted path names; `sources[]`, `sources[0]`, `sources.0` and `sources` before a key agree.

    Raises ConfigError with what was meant.
    """
    from deploykit.recipe.diagnostics import printable
    from deploykit.recipe.suggest import for_key
    from deploykit.recipe.tree import FILE_KEYS, Node, lookup, root, sections_by_key

    path: Path = ()
    segments = list(_segments(field))
    if segments[0] == "profiles" and len(segments) > 2:  # a profile has the keys of a recipe
        return _find(".".join(map(str, segments[2:])))
    if segments[0] in FILE_KEYS:  # below it, names are the writer's own
        return (segments[0],), Node(_file_schema()["properties"][segments[0]])
    for name in segments:
        above = lookup(path)
        if above is not None and above.is_list and not isinstance(name, int):
            path = (*path, 0)
        if isinstance(name, int) and (above is None or not above.is_list):
            raise ConfigError(
                f"`{_dotted(path)}` is not a list", fix=f"deploykit schema {_dotted(path)}".rstrip()
            )
        if lookup((*path, name)) is None:
            section = lookup(path)
            keys = [key for option in section.alternatives for key in option.keys] if section else []
            if path and not keys:
                raise ConfigError(f"`{_dotted(path)}` has no keys", fix=f"deploykit schema {_dotted(path)}")
            fix = for_key((*path, name), list(dict.fromkeys(keys))).help
            homes = sections_by_key().get(str(name), [])
            if not path and len(homes) == 1:  # a bare name of one place: that is what is asked for
                return _find(".".join((homes[0], *map(str, segments))))
            raise ConfigError(f"there is no key `{printable(field[:80])}`", fix=fix)
        path = (*path, name)
    return path, lookup(path) or root()


def _file_schema() -> dict[str, Any]:
    """The schema of what a file may hold: with the keys that are gone once a recipe is merged."""
    from deploykit import shipped

    found: dict[str, Any] = json.loads(shipped.schema_path().read_bytes())
    return found


def _segments(field: str) -> Iterator[str | int]:
    for part in field.replace("[]", ".0").replace("[", ".").replace("]", "").split("."):
        yield int(part) if part.isdecimal() and len(part) < 6 else part


def _dotted(path: Path) -> str:
    text = ""
    for segment in path:
        text += "[]" if isinstance(segment, int) else f".{segment}" if text else segment
    return text


def _fragment(node: Node) -> dict[str, Any]:
    """The schema of one place, with the definitions that it refers to, so that it stands alone."""
    from deploykit.recipe.schema_file import recipe_schema

    definitions = {**_file_schema()["$defs"], **recipe_schema()["$defs"]}
    needed: dict[str, Any] = {}

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            if name and name not in needed:
                needed[name] = definitions[name]
                collect(definitions[name])
            for child in value.values():
                collect(child)
        elif isinstance(value, list):
            for child in value:
                collect(child)

    own = dict(node.schema)
    own.pop("$defs", None)
    collect(own)
    return {**own, "$defs": needed} if needed else own


# ---------------------------------------------------------------- for people


def _explain(path: Path, node: Node) -> None:
    from deploykit.cli._tables import Printer

    out = Printer()
    out.line(_dotted(path), style="bold")
    if kinds := _kinds(path):
        for kind, option in kinds:
            own = option.child(path[-1]) or node
            out.line("")
            out.line(f"with `{kind}`: {_about(own)}")
            for label, text in (("values", _values(own)), ("default", _default(path, own, option))):
                out.line(f"  {label:<9} {text}")
        return
    if about := _about(node):
        out.line(f"  {about}")
    out.line("")
    facts = [("values", _values(node)), *_defaults(path, node), *_more(path, node)]
    facts += _ways(path, node)
    for label, text in facts:
        out.line(f"  {label:<9} {text}")
    for title, option in _sections(node):
        out.line("")
        out.line(title)
        rows = [
            (f"  {key}", _default((*path, key), child, option), _about(child), _values(child))
            for key in option.keys
            if (child := option.child(key)) is not None
        ]
        columns = ("key", "default", "meaning", "values")
        if sys.stdout.isatty():  # few are wide enough for four; a key by itself shows its values
            out.table((row[:-1] for row in rows), columns[:-1])
        else:
            out.table(rows, columns)


def _kinds(path: Path) -> list[tuple[str, Node]]:
    """The kinds of entries of a list that have this key, where it isn't the same in each of them."""
    from deploykit.recipe.tree import lookup

    above = lookup(path[:-1])
    if above is None or not above.is_section_union or not isinstance(path[-1], str):
        return []
    having = [option for option in above.alternatives if path[-1] in option.keys]
    return [(option.required[0], option) for option in having] if len(having) > 1 else []


def _about(node: Node) -> str:
    return str(node.schema.get("description") or node.solid.schema.get("description") or "")


def _values(node: Node) -> str:
    text = node.expected.replace("`", "")
    return f"{text}, or null" if node.nullable and text != "null" else text


def _defaults(path: Path, node: Node) -> list[tuple[str, str]]:
    """The default, where there can be one: an item of a list has none, nor has a key that is gone once merged."""
    known = "default" in node.schema or not isinstance(path[-1], int)
    text = _default(path, node) if known else ""
    return [("default", text)] if text else []


def _default(path: Path, node: Node, section: Node | None = None) -> str:
    from deploykit.recipe.reference import default_of
    from deploykit.recipe.tree import lookup

    above = section or lookup(path[:-1])
    if above is not None and any(path[-1] in option.required for option in above.alternatives):
        return "required"
    if "default" not in node.schema and not node.is_section:
        return ""
    return default_of(node.schema, node)


def _more(path: Path, node: Node) -> list[tuple[str, str]]:
    """What docs/recipes.md has about it: an example, why one would set it, and who honours it."""
    from deploykit.recipe.honoured import refusals
    from deploykit.recipe.reference import entry

    known = entry(_dotted(path))
    if known is None:
        examples = node.schema.get("examples") or node.solid.schema.get("examples") or []
        texts = [e if isinstance(e, str) else json.dumps(e, ensure_ascii=False) for e in examples]
        return [("examples", ", ".join(texts))] if texts else []
    facts = [("example", known.example), ("why", known.guide.why), ("engines", known.engines)]
    facts += [("", text) for text in refusals(known.path)]
    return [(label, text.replace("`", "")) for label, text in facts if text]


def _ways(path: Path, node: Node) -> list[tuple[str, str]]:
    """How it is given without an editor: a value alone, outside of lists."""
    from deploykit.recipe.tree import FILE_KEYS

    if node.is_section or node.is_list or path[0] in FILE_KEYS or any(isinstance(part, int) for part in path):
        return []
    name = _dotted(path)
    return [
        ("once", f"--set {name}=VALUE, or DEPLOYKIT_SET__{name.replace('.', '__')}=VALUE in the environment")
    ]


def _sections(node: Node) -> list[tuple[str, Node]]:
    """The sections that the place itself, or an item of the list, may be."""
    item = node.solid.child(0) if node.is_list else node
    if item is None:
        return []
    options = [option for option in item.alternatives if option.is_section]
    if not node.is_list and len(options) == 1:
        return [("its keys:", options[0])]
    with_ = "an item with" if node.is_list else "with"
    return [(f"{with_} `{option.required[0]}`:", option) for option in options]
