"""`deploykit ls`: the recipes that come with deploykit."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploykit.errors import EXIT_OK, ConfigError

if TYPE_CHECKING:
    from deploykit.shipped.gallery import Entry


COLUMNS = ("name", "family", "size", "context", "needs", "variants", "description")
_LEAST_DESCRIPTION = 24  # characters


def ls(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORD",
            help="Only recipes with these words in name or description.",
            show_default=False,
        ),
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", metavar="NAME", help="Only models of this family.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="A JSON list on stdout.")] = False,
) -> int:
    """List the shipped recipes. A name is a target: `deploykit up NAME`, `plan NAME`, `show NAME`."""
    from deploykit.shipped.gallery import entries

    everything = entries()
    found = [e for e in everything if _matches(e, words or ()) and (family is None or _of_family(e, family))]
    if json_:
        _print_json(found)
        return EXIT_OK
    if not found:
        families = ", ".join(sorted({e.family for e in everything if e.family}))
        raise ConfigError(
            "no shipped recipe is like that",
            why=f"families: {families}" if family and families else None,
            fix="`deploykit ls` lists all of them",
        )
    _print(found)
    return EXIT_OK


def _matches(entry: Entry, words: list[str] | tuple[()]) -> bool:
    text = " ".join((entry.name, entry.description, entry.model, entry.family or "")).lower()
    return all(word.lower() in text for word in words)


def _of_family(entry: Entry, family: str) -> bool:
    """`qwen2` is one family, and `qwen` all of its generations."""
    wanted = family.lower().replace("_", "-")
    own = (entry.family or "").lower().replace("_", "-")
    return own.startswith(wanted) or entry.name.startswith(wanted)


def _print(found: list[Entry]) -> None:
    from deploykit.cli._tables import Printer

    out = Printer()
    columns = list(COLUMNS)
    rows = [COLUMNS, *map(_row, found)]
    widths = [max(len(row[i]) for row in rows) + 2 for i in range(len(COLUMNS))]
    # A terminal that is too narrow for a description gets none, rather than one of two letters a line.
    if sys.stdout.isatty() and sum(widths[:-1]) + _LEAST_DESCRIPTION > shutil.get_terminal_size().columns:
        columns.pop()
        rows = [row[:-1] for row in rows]
    out.table(rows, columns, right=(2, 3), styles={COLUMNS[0]: "bold"})
    if sys.stdout.isatty():
        count = f"{len(found)} recipe{'s' * (len(found) != 1)}"
        out.line(
            f"\n{count}. deploykit plan NAME [--profile VARIANT] · deploykit up NAME · deploykit cp NAME",
            "dim",
        )


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        entry.name,
        entry.family or "-",
        parameters_text(entry.parameters),
        context_text(entry.context),
        requires_text(entry.requires),
        " ".join(entry.profiles) or "-",
        _description(entry),
    )


def _description(entry: Entry) -> str:
    if entry.problem:
        return f"can't be read: {entry.problem}"
    return f"not yet: {entry.unsupported}" if entry.unsupported else entry.description


def parameters_text(count: int | None) -> str:
    """`135M`, `7.6B`."""
    if count is None:
        return "-"
    # From 999.5 on three digits would be 1,000 of the smaller unit.
    size, unit = next(
        (pair for pair in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if count >= 0.9995 * pair[0]), (1e3, "K")
    )
    return f"{count / size:.3g}{unit}"


def context_text(tokens: int | None) -> str:
    """`8K`, `32K`, `1M`, as models are named by it."""
    if tokens is None:
        return "-"
    for size, unit in ((1 << 20, "M"), (1 << 10, "K")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return str(tokens)


def requires_text(requires: dict[str, Any]) -> str:
    """`20GiB gpu 8.0+`; nothing is asked for where the plan alone decides."""
    words = [str(requires["memory"])] if requires.get("memory") else []
    words += ["gpu"] if requires.get("gpu") else []
    words += [f"{requires['compute_capability']}+"] if requires.get("compute_capability") else []
    return " ".join(words) or "-"


def _print_json(found: list[Entry]) -> None:
    import dataclasses
    import json

    rows = [{**dataclasses.asdict(e), "path": str(e.path), "runs": e.unsupported is None} for e in found]
    print(json.dumps(rows, indent=2, ensure_ascii=False))
