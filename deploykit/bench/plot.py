"""The comparison as a picture. Needs matplotlib, which only this file imports."""

from __future__ import annotations

import io
from pathlib import Path

from deploykit.bench.report import Comparison, Report
from deploykit.errors import ConfigError
from deploykit.fsutil import write_atomic

FORMATS = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """ConfigError, before anything is measured, for a plot that could not be written."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"can't plot into {path.name}", fix=f"a name that ends in {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--plot needs matplotlib", fix="pip install 'deploykit[bench]', or pip install matplotlib"
        ) from None


def write_plot(report: Report, path: Path) -> None:
    """Bars of tokens per second, medians with the range of the runs, one group a workload."""
    from matplotlib.figure import Figure

    rows = [r for r in report.results if isinstance(r, Comparison)]
    if not rows:
        raise ConfigError(
            "there is nothing to plot", fix="--plot draws the comparison of `--against generate`"
        )
    figure = Figure(figsize=(2 + 2.6 * len(rows), 4.2), layout="constrained")
    axes = figure.subplots()
    for offset, side, colour in ((-0.2, "ours", "#2f6fde"), (0.2, "peer", "#9aa3af")):
        peers = [getattr(row, side) for row in rows]
        middle = [p.median for p in peers]
        low = [p.median - min(p.tokens_per_s) for p in peers]
        high = [max(p.tokens_per_s) - p.median for p in peers]
        places = [i + offset for i in range(len(rows))]
        label = f"{peers[0].name}, {peers[0].dtype}"
        bars = axes.bar(places, middle, 0.38, yerr=[low, high], capsize=4, color=colour, label=label)
        axes.bar_label(bars, fmt="%.0f", padding=3)
    names = [
        f"{r.workload.name}\n{r.workload.prompt_len} in, {r.workload.output_len} out\n{r.ratio:.2f} times"
        for r in rows
    ]
    axes.set_xticks(range(len(rows)), names)
    axes.set_ylabel("output tokens per second")
    axes.set_title(f"{rows[0].model}\n{report.machine.cpu}, {report.machine.cores} cores", fontsize=10)
    axes.legend(frameon=False)
    axes.margins(y=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix.lower().lstrip("."), dpi=150)
    write_atomic(path, data.getvalue())
