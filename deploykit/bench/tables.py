"""Results for a person: a rich table on a terminal, aligned text otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploykit.bench.measure import Summary
from deploykit.bench.predictions_report import Prediction, prediction_rows
from deploykit.bench.report import Comparison, HostOverhead, HttpLoad, MachineFacts, Report, Result, Startup
from deploykit.bench.suite_report import DatasetLoad, Suite
from deploykit.bench.suite_tables import dataset_rows, suite_rows
from deploykit.bench.versus_report import Perplexity, Versus
from deploykit.bench.versus_tables import perplexity_rows, versus_rows
from deploykit.fsutil import write_atomic

Row = tuple[str, ...]
MIB = 1 << 20


def show(report: Report) -> None:
    """Print every result of `report` to stdout."""
    print(machine_line(report.machine))
    for title, head, rows in _tables(report):
        _print(title, head, rows)


def write(report: Report, path: Path) -> None:
    """The same as plain text into a file."""
    lines = [machine_line(report.machine)]
    for title, head, rows in _tables(report):
        lines += ["", title, *align([head, *rows])]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _tables(report: Report) -> Iterator[tuple[str, Row, list[Row]]]:
    comparisons = [r for r in report.results if isinstance(r, Comparison)]
    if comparisons:
        yield "output tokens per second", COMPARISON_HEAD, [row for c in comparisons for row in compared(c)]
    for result in report.results:
        if not isinstance(result, Comparison):
            yield rows_of(result)


def machine_line(machine: MachineFacts) -> str:
    versions = ", ".join(
        f"{name} {machine.packages[name]}" for name in ("torch", "transformers") if name in machine.packages
    )
    commit = f", commit {machine.commit[:12]}" if machine.commit else ""
    return f"{machine.cpu}, {machine.cores} cores, Python {machine.python}, {versions}{commit}"


COMPARISON_HEAD: Row = ("workload", "side", "dtype", "median", "spread", "runs", "ratio")


def compared(result: Comparison) -> list[Row]:
    """Two rows: ours with the ratio, then the peer's."""
    shape = result.workload
    name = f"{shape.name} ({shape.prompt_len} in, {shape.output_len} out)"
    rows: list[Row] = []
    for side, ratio in ((result.ours, f"{result.ratio:.2f}"), (result.peer, "1.00")):
        runs = " ".join(f"{value:.1f}" for value in side.tokens_per_s)
        rows.append((name, side.name, side.dtype, f"{side.median:.1f}", f"{side.spread:.1%}", runs, ratio))
        name = ""
    return rows


def rows_of(result: Result) -> tuple[str, Row, list[Row]]:
    """(title, head, rows) of a result that is no comparison."""
    if isinstance(result, HostOverhead):
        title = f"host time between two steps, {result.rows} rows, {result.steps} steps, fake runner"
        return (
            title,
            ("overlap depth", *LATENCY_HEAD),
            [(str(result.overlap_depth), *_latency(result.milliseconds, 1.0))],
        )
    if isinstance(result, HttpLoad):
        shape = result.workload
        title = (
            f"{result.model} at {result.url}: {result.completed} of {shape.requests} requests, "
            f"{shape.concurrency} at once, {shape.prompt_len} in, {shape.output_len} out: "
            f"{result.requests_per_s:.2f} requests/s, {result.output_tokens_per_s:.1f} output tok/s"
        )
        if result.errors:
            title += "\n" + "\n".join(f"  {count} failed: {what}" for what, count in result.errors.items())
        named = [
            ("TTFT", result.ttft_s),
            ("ITL", result.itl_s),
            ("TPOT", result.tpot_s),
            ("latency", result.latency_s),
        ]
        return (
            title,
            ("", *LATENCY_HEAD),
            [(name, *_latency(s, 1000.0)) for name, s in named if s is not None],
        )
    if isinstance(result, Startup):
        planned, measured = result.planned_bytes, result.engine_anonymous_bytes
        off = f" ({measured / planned - 1:+.1%} of the plan)" if planned else ""
        return (
            f"start of {result.target} from a warm cache",
            ("measure", "value"),
            [
                ("ready, median", f"{result.ready_median_s:.2f} s of {len(result.ready_s)}"),
                ("front, resident", f"{result.front_rss_bytes / MIB:.0f} MiB"),
                ("engine, anonymous", f"{measured / MIB:.0f} MiB{off}"),
                ("engine, planned", f"{planned / MIB:.0f} MiB"),
                ("--help, median", f"{result.help_median_s:.3f} s"),
            ],
        )
    if isinstance(result, Versus):
        return versus_rows(result)
    if isinstance(result, Perplexity):
        return perplexity_rows(result)
    if isinstance(result, Suite):
        return suite_rows(result)
    if isinstance(result, DatasetLoad):
        return dataset_rows(result)
    if isinstance(result, Prediction):
        return prediction_rows(result)
    raise TypeError(type(result).__name__)


LATENCY_HEAD: Row = ("p50 ms", "p90 ms", "p99 ms", "max ms", "mean ms", "count")


def _latency(summary: Summary, scale: float) -> Row:
    values = (summary.p50, summary.p90, summary.p99, summary.max, summary.mean)
    return (*(f"{value * scale:.3f}" for value in values), str(summary.count))


def _print(title: str, head: Row, rows: Sequence[Row]) -> None:
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title), title_justify="left")
        for i, name in enumerate(head):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    print(f"\n{title}")
    for line in align([head, *rows]):
        print(line)


def align(rows: Sequence[Row]) -> list[str]:
    """Columns padded to one width, two spaces between them."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
