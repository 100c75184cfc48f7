"""Comparisons with other engines, and perplexities, as rows of a table."""

from __future__ import annotations

from deploykit.bench.turns import amount
from deploykit.bench.versus_report import Ceilings, FigureResult, Measured, Perplexity, Versus

Row = tuple[str, ...]
HEAD: Row = ("figure", "side", "setting", "median", "spread", "GB/s", "GFLOP/s", "ratio")


def versus_rows(result: Versus) -> tuple[str, Row, list[Row]]:
    """(title, head, rows): for each figure ours, then each other side with our ratio to it."""
    title = (
        f"{result.model}, {result.threads} threads, medians of {result.rounds} rounds; "
        f"deploykit: {result.engine}, {result.dtype}; "
        + "; ".join(f"{s.name}: {s.version}, KV {s.kv_dtype}" for s in result.sides[1:])
        + f"\nthis machine: {ceilings_line(result.ceilings)}"
    )
    return title, HEAD, [row for figure in result.figures for row in _figure(figure)]


def ceilings_line(ceilings: Ceilings) -> str:
    parts = []
    if ceilings.read_gbytes_per_s is not None:
        parts.append(f"reads {ceilings.read_gbytes_per_s:.1f} GB/s")
    if ceilings.int8_gops is not None:
        parts.append(f"{ceilings.int8_gops:,.0f} int8 GOP/s")
    return f"{', '.join(parts) or 'limits not measured'} ({ceilings.source})"


def _figure(figure: FigureResult) -> list[Row]:
    rows = [_row(figure.title, figure, figure.ours, "")]
    for other in figure.others:
        ratio = figure.ratios[other.side]
        better = (ratio >= 1) == figure.higher_is_better
        rows.append(_row("", figure, other, f"{ratio:.2f}{'' if better else ' (behind)'}"))
    return rows


def _row(title: str, figure: FigureResult, side: Measured, ratio: str) -> Row:
    return (
        title,
        side.side,
        side.setting or "",
        amount(side.median, figure.name),
        f"{side.spread:.1%}",
        "" if side.gbytes_per_s is None else f"{side.gbytes_per_s:.1f}",
        "" if side.gflops is None else f"{side.gflops:,.0f}",
        ratio,
    )


def perplexity_rows(result: Perplexity) -> tuple[str, Row, list[Row]]:
    parts = "" if result.windows == 1 else f" in {result.windows} parts"
    title = f"perplexity of {result.model} over {result.tokens:,} tokens of {result.text}{parts}"
    rows: list[Row] = [
        (
            row.name,
            row.engine,
            row.dtype if row.lm_head_dtype == "auto" else f"{row.dtype}, {row.lm_head_dtype} head",
            row.kv_dtype,
            f"{row.perplexity:.4f}",
            "" if row.off is None else f"{row.off:+.3%}",
        )
        for row in result.rows
    ]
    return title, ("", "engine", "dtype", "KV", "perplexity", "off"), rows
