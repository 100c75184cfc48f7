"""What completes an argument: names that deploykit knows, looked up in a hurry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from deploykit.recipe.tree import Node

RECIPE_FILES = ("yaml", "yml")
TARGET_FILES = (*RECIPE_FILES, "gguf")


class Candidate(NamedTuple):
    """What could stand there, and what that is."""

    value: str
    meaning: str = ""


@dataclass
class Found:
    """Candidates, and what the shell is to offer beside them. `files` are endings; empty: any file."""

    candidates: list[Candidate] = field(default_factory=list)
    files: tuple[str, ...] | None = None
    folders: bool = False
    nospace: bool = False  # the word goes on


@dataclass
class Line:
    """The line before the cursor: positional arguments, options by parameter; `current` is what is being typed."""

    command: str
    arguments: list[str] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)
    current: str = ""


def nothing(line: Line) -> Found:
    return Found()


def any_file(line: Line) -> Found:
    return Found(files=())


def json_file(line: Line) -> Found:
    return Found(files=("json",))


def folder(line: Line) -> Found:
    return Found(folders=True)


def shipped_name(line: Line) -> Found:
    from deploykit import shipped

    return Found([Candidate(name, "shipped recipe") for name in shipped.names()])


def recipe(line: Line) -> Found:
    return Found(shipped_name(line).candidates, files=RECIPE_FILES)


def target(line: Line) -> Found:
    return Found(shipped_name(line).candidates, files=TARGET_FILES)


def deployment(line: Line) -> Found:
    """Deployments that aren't on the line yet; `down` stops what runs, `logs` shows what has ended too."""
    from deploykit.supervise.state import read_all

    states = [s for s in read_all() if s.live or line.command != "down"]
    return Found([Candidate(s.name, f"{s.status} {s.url}") for s in states if s.name not in line.arguments])


def endpoint(line: Line) -> Found:
    names = target(line)
    return Found(deployment(line).candidates + names.candidates, files=names.files)


def code(line: Line) -> Found:
    from deploykit.recipe.codes import CODES

    return Found([Candidate(str(name), "") for name in CODES])


def template(line: Line) -> Found:
    from deploykit.prompt.templates.builtins import ALIASES, BUILTINS

    if line.arguments[:1] != ["show"]:
        return Found()
    names = target(line)
    known = [Candidate(f.name, f.models) for f in BUILTINS.values()] + [Candidate(a, "") for a in ALIASES]
    return Found(known + names.candidates, files=names.files)


def machine(line: Line) -> Found:
    from deploykit.hardware import catalog

    return Found(
        [Candidate(entry.name, entry.about) for entry in catalog.entries()], files=(*RECIPE_FILES, "json")
    )


def profile(line: Line) -> Found:
    """The profiles of the recipe on the line, those that it inherits among them."""
    from pathlib import Path

    from deploykit import shipped
    from deploykit.recipe.compose import read_layers
    from deploykit.recipe.files import read_file

    if not line.arguments:
        return Found()
    file = shipped.meant(line.arguments[0]) or Path(line.arguments[0])
    return Found([Candidate(name) for name in read_layers(read_file(file), file).profiles])


def family(line: Line) -> Found:
    from deploykit.shipped.gallery import families

    return Found([Candidate(name) for name in families()])


# ---------------------------------------------------------------- keys of a recipe


def key(line: Line) -> Found:
    """Dotted keys, a level at a time: sections go on with a dot."""
    return _keys(line.current, "")


def assignment(line: Line) -> Found:
    """`engine.cache.quant_policy=int8`: the key, then its value where there is a choice."""
    from deploykit.recipe.tree import lookup

    dotted, equals, _ = line.current.partition("=")
    if not equals:
        return _keys(line.current, "=")
    node = lookup(tuple(dotted.split(".")))
    return Found([Candidate(f"{dotted}={value}") for value in _choices(node)] if node else [])


def sampling(line: Line) -> Found:
    from deploykit.recipe.tree import lookup

    section = lookup(("chat", "defaults"))
    keys = section.keys if section else {}
    return Found([Candidate(f"{k}=", str(v.get("description", ""))) for k, v in keys.items()], nospace=True)


def _keys(current: str, end: str) -> Found:
    from deploykit.recipe.tree import lookup, root

    *above, _ = current.split(".")
    section = lookup(tuple(above)) if above else root()
    prefix = "".join(f"{name}." for name in above)
    found = []
    for name in section.keys if section else ():
        child = section.child(name) if section else None
        if child is not None:
            goes_on = "." if child.is_section else end
            found.append(Candidate(f"{prefix}{name}{goes_on}", str(child.schema.get("description", ""))))
    alone = [c for c in found if c.value.startswith(current)]
    return Found(found, nospace=not (len(alone) == 1 and alone[0].value[-1] not in ".="))


def _choices(node: Node) -> list[str]:
    found: list[str] = []
    for option in node.alternatives:
        found += [value for value in option.choices if isinstance(value, str)]
        if option.schema.get("type") == "boolean":
            found += ["true", "false"]
    return found
