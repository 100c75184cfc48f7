"""Tables for people: rich on a terminal, aligned plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from deploykit.cli._output import coloured, safe

_PIPE_WIDTH = 10_000  # a pipe has no width: nothing is cut or wrapped


class Printer:
    """Writes lines, headings and tables to stdout."""

    def __init__(self) -> None:
        from rich.console import Console

        self._fancy = coloured(sys.stdout)
        self._console = Console(
            file=sys.stdout,
            highlight=False,
            markup=False,
            emoji=False,
            no_color=not self._fancy,
            width=None if sys.stdout.isatty() else _PIPE_WIDTH,
            soft_wrap=False,
        )

    def line(self, text: str, style: str | None = None) -> None:
        self._console.print(safe(text), style=style)

    def heading(self, text: str) -> None:
        self._console.print()
        self._console.print(text, style="bold cyan" if self._fancy else None)

    def table(
        self,
        rows: Iterable[Sequence[str]],
        columns: Sequence[str],
        *,
        right: Sequence[int] = (),
        styles: Mapping[str, str] | None = None,
    ) -> None:
        """`right` are the columns set to the right; a row takes the style of the first cell that `styles` names."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(width=0)
        for index, name in enumerate(columns):
            last = index == len(columns) - 1
            justify = "right" if index in right else "left"
            table.add_column(name, justify=justify, no_wrap=not last, overflow="fold")  # type: ignore[arg-type]
        for row in rows:
            style = next((styles[cell] for cell in row if cell in styles), "") if styles else ""
            table.add_row("", *(Text(safe(cell), style=style if self._fancy else "") for cell in row))
        with self._console.capture() as captured:
            self._console.print(table)
        for line in captured.get().splitlines():
            print(line.rstrip())

    def flush(self) -> None:
        sys.stdout.flush()
