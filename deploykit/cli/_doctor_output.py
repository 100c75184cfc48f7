"""How `doctor` shows what it found: groups with a verdict each on a terminal, every line in a pipe."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from deploykit.cli._output import coloured
from deploykit.plan.text import format_count

if TYPE_CHECKING:
    from deploykit.cli._tables import Printer
    from deploykit.doctor import Check, RecipeRow, Report, Variant

MARKS = {"ok": "✔", "warn": "!", "fail": "✘", "skip": "-"}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}
FITS = {"yes": "yes", "no": "no", "unsupported": "not yet", "unknown": "?", "invalid": "invalid"}
# Which check stands for its group where all is well.
_LEADS = ("os", "cpu", "memory", "gpu", "cuda", "native", "hub", "port", "recipe")
GROUPS = (
    ("yes", "Runs here"),
    ("no", "Needs more than this machine has, or other settings"),
    ("unknown", "Not known yet"),
    ("unsupported", "Not yet supported by this version"),
    ("invalid", "Can't be read"),
)
COLUMNS = ("recipe", "engine", "fits", "context x sessions", "variants", "why")


def print_report(report: Report, *, verbose: bool) -> None:
    """Everything on stdout; on a terminal what is well is one line a group, unless `verbose`."""
    from deploykit.cli._tables import Printer

    out = Printer()
    whole = verbose or not sys.stdout.isatty()
    for name, checks in grouped(report.checks):
        _print_group(out, name, checks, whole)
    if report.recipes:
        _print_recipes(out, report.recipes, whole)
    out.line("")
    out.line(verdict(report), style=_style(f"bold {_STYLES[report.status]}"))


def _style(name: str) -> str | None:
    """No style at all where none is wanted: bold and dim are escapes too."""
    return name if coloured(sys.stdout) else None


def grouped(checks: Iterable[Check]) -> list[tuple[str, list[Check]]]:
    """The checks by category, in their order."""
    found: dict[str, list[Check]] = {}
    for check in checks:
        found.setdefault(check.category, []).append(check)
    return list(found.items())


# ---------------------------------------------------------------- checks


def _print_group(out: Printer, name: str, checks: Sequence[Check], whole: bool) -> None:
    status = worst(checks)
    shown = [check for check in checks if whole or check.status in ("warn", "fail")]
    head = f"[{MARKS[status]}] {name:<16} "
    _wrapped(out, head, group_verdict(checks, brief=whole), _style(_STYLES[status]))
    width = max((len(check.title) for check in shown), default=0)
    indent = " " * (width + 8)
    for check in shown:
        _wrapped(
            out,
            f"    {MARKS[check.status]} {check.title:<{width}}  ",
            check.found,
            _style(_STYLES[check.status]),
        )
        if check.status in ("warn", "fail"):
            for label, text in (("why", check.why), ("fix", check.fix)):
                if text:
                    _wrapped(out, f"{indent}{label}: ", text)
        for line in check.details if whole else ():
            out.line(f"{indent}{line}")


def _wrapped(out: Printer, head: str, text: str, style: str | None = None) -> None:
    """A line, on a terminal folded under its own beginning; a pipe has no width."""
    if not sys.stdout.isatty():
        out.line(f"{head}{text}".rstrip(), style=style)
        return
    width = max(len(head) + 24, shutil.get_terminal_size().columns - 1)
    pieces = textwrap.wrap(text, width - len(head), break_long_words=False, break_on_hyphens=False) or [""]
    for i, piece in enumerate(pieces):
        out.line(f"{head if i == 0 else ' ' * len(head)}{piece}", style=style)


def worst(checks: Sequence[Check]) -> str:
    """The group's mark: its worst check; `-` where none of them applies."""
    found = {check.status for check in checks}
    return next((status for status in ("fail", "warn", "ok") if status in found), "skip")


def group_verdict(checks: Sequence[Check], *, brief: bool = False) -> str:
    """One line: how many are to look at, or what the group's main check found; not that where it follows anyway."""
    bad = [check.title for check in checks if check.status in ("fail", "warn")]
    if bad:
        return f"{len(bad)} of {len(checks)} to look at: {', '.join(bad)}"
    return "" if brief else next((check for check in checks if check.id in _LEADS), checks[0]).found


def verdict(report: Report) -> str:
    failed = [check.title for check in report.checks if check.status == "fail"]
    warned = [check.title for check in report.checks if check.status == "warn"]
    runs = sum(row.runs for row in report.recipes)
    recipes = f" {runs} of {len(report.recipes)} recipes run here." if len(report.recipes) > 1 else ""
    if failed:
        return f"{len(failed)} of {len(report.checks)} checks failed: {', '.join(failed)}.{recipes}"
    if warned:
        return f"This machine can serve models; {len(warned)} to look at: {', '.join(warned)}.{recipes}"
    return f"This machine is ready to serve models.{recipes}"


# ---------------------------------------------------------------- recipes


def _print_recipes(out: Printer, rows: Sequence[RecipeRow], whole: bool) -> None:
    out.heading("Recipes on this machine")
    if not sys.stdout.isatty():
        out.table([COLUMNS, *map(cells, rows)], COLUMNS)
        return
    for fits, title in GROUPS:
        group = [row for row in rows if row.fits == fits]
        if not group:
            continue
        out.line(f"\n  {title} ({len(group)})", style=_style("bold"))
        if fits in ("yes", "no") or whole:
            columns, lines = _terminal_table(fits, group, whole)
            out.table(lines, columns)
        else:
            _print_reasons(out, group)


def _print_reasons(out: Printer, rows: Sequence[RecipeRow]) -> None:
    """Every reason once, with the recipes that it is the reason of; and the variants that run all the same."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        running = ", ".join(v.name for v in row.variants if v.fits == "yes")
        by_reason.setdefault(row.why, []).append(
            f"{row.recipe} ({running} runs here)" if running else row.recipe
        )
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        _wrapped(out, "  ", f"{reason.rstrip('.')}:")
        _wrapped(out, "      ", ", ".join(names))


def cells(row: RecipeRow) -> tuple[str, ...]:
    """A row of the table that a pipe gets; `variants` are the profiles, each with what it gives."""
    return row.recipe, engine_of(row), FITS[row.fits], room_of(row), variants_of(row.variants) or "-", row.why


def engine_of(row: RecipeRow) -> str:
    return f"{row.engine} on {row.device}" if row.engine else "-"


def room_of(row: RecipeRow | Variant) -> str:
    """`8,192 x 31`: a session's tokens, and how many sessions the KV memory holds at once."""
    if row.session_len is None or row.sessions is None:
        return "-"
    return f"{format_count(row.session_len)} x {row.sessions}"


def variants_of(variants: Sequence[Variant]) -> str:
    return ", ".join(f"{v.name} {room_of(v) if v.fits == 'yes' else FITS[v.fits]}" for v in variants)


def _short(row: RecipeRow, running: bool) -> str:
    """Variants for a terminal: `kv-int8 x 9` where a session is as long as without; with `running` those that run."""
    shown = []
    for v in row.variants:
        if v.fits == "yes":
            room = f"x {v.sessions}" if v.session_len == row.session_len else room_of(v)
            shown.append(f"{v.name} {room}")
        elif not running:
            shown.append(f"{v.name} {FITS[v.fits]}")
    return ", ".join(shown) or "-"


def _terminal_table(
    fits: str, rows: Sequence[RecipeRow], whole: bool
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and lines of one group: what runs with its room, what doesn't with variants that do and the reason."""
    if fits == "yes":
        columns: tuple[str, ...] = ("recipe", "engine", "context x sessions", "variants")
        lines: list[tuple[str, ...]] = [
            (row.recipe, engine_of(row), room_of(row), _short(row, False)) for row in rows
        ]
        return columns, [columns, *lines]
    if any(v.fits == "yes" for row in rows for v in row.variants):
        columns = ("recipe", "variants that run here", "why not as it is")
        lines = [(row.recipe, _short(row, True), row.why) for row in rows]
    else:
        columns = ("recipe", "why")
        lines = [(row.recipe, row.why) for row in rows]
    if not whole:
        used = sum(max(len(line[i]) for line in (columns, *lines)) + 2 for i in range(len(columns) - 1))
        room = max(24, shutil.get_terminal_size().columns - used - 3)
        lines = [(*line[:-1], cut(line[-1], room)) for line in lines]
    return columns, [columns, *lines]


def cut(text: str, width: int) -> str:
    """At most `width` characters of the first line."""
    line = text.partition("\n")[0]
    return line if len(line) <= width else f"{line[: width - 1].rstrip()}…"
