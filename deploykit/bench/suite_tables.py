"""The suite of workloads and the dataset benchmark as rows of a table."""

from __future__ import annotations

from deploykit.bench.suite import card_line
from deploykit.bench.suite_report import DatasetLoad, Suite, SuiteFigure

Row = tuple[str, ...]
SUITE_HEAD: Row = (
    "workload", "figure", "unit", "spread", "runs", "GB/s", "TFLOP/s", "roofline", "share", "peers", "to the best",
)  # fmt: skip
DATASET_HEAD: Row = ("", "min ms", "mean ms", "p50 ms", "p75 ms", "p95 ms", "p99 ms", "max ms", "count")


def suite_rows(result: Suite) -> tuple[str, Row, list[Row]]:
    """(title, head, rows)."""
    random = "random " if result.random_weights else ""
    title = (
        f"{result.model}, {random}{result.weights} weights, deploykit {result.engine} on {result.device}, "
        f"{result.dtype}, KV {result.kv_dtype}: at most {result.max_batch_size} sequences at once, "
        f"steps of {result.max_prefill_tokens:,} tokens, {result.kv_tokens:,} tokens of KV; "
        f"ready after {result.load_s:.1f} s\n"
        f"this card: {card_line(result.card)}\n"
        f"peers: {result.peers_note}"
    )
    without = "of another card" if result.peers_note.startswith("of another card") else "–"
    return title, SUITE_HEAD, [_figure(figure, without) for figure in result.figures]


def _figure(figure: SuiteFigure, without: str) -> Row:
    best = min(figure.peers, key=lambda peer: peer.ratio, default=None)
    return (
        figure.name,
        _number(figure.median),
        figure.unit,
        f"{figure.spread:.1%}",
        str(len(figure.values)),
        "–" if figure.gbytes_per_s is None else _number(figure.gbytes_per_s),
        "–" if figure.tflops is None else _number(figure.tflops),
        "–" if figure.roofline is None else _number(figure.roofline),
        "–" if figure.roofline_share is None else f"{figure.roofline_share:.1%}",
        ", ".join(f"{peer.name}: {_number(peer.value)}" for peer in figure.peers) or without,
        "" if best is None else f"{best.ratio:.2f}{'' if best.ratio >= 1 else ' (behind)'}",
    )


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def dataset_rows(result: DatasetLoad) -> tuple[str, Row, list[Row]]:
    """What serving benchmarks print: totals in the title, latencies as rows."""
    lines = [
        f"{result.model} at {result.url}, {result.dataset}: {result.completed} of {result.requests} requests, "
        f"{result.concurrency} at once",
        f"  elapsed            {result.elapsed_s:.2f} s",
        f"  prompt tokens      {result.prompt_tokens}",
        f"  output tokens      {result.output_tokens}",
        f"  prompt tokens/s    {result.prompt_tokens_per_s:.1f}",
        f"  output tokens/s    {result.output_tokens_per_s:.1f}",
        f"  tokens/s           {result.tokens_per_s:.1f}",
        f"  requests/s         {result.requests_per_s:.3f}",
        *(f"  {count} failed: {what}" for what, count in result.errors.items()),
    ]
    named = (
        ("TTFT", result.ttft_s), ("TPOT", result.tpot_s), ("ITL", result.itl_s), ("latency", result.latency_s),
    )  # fmt: skip
    rows = []
    for name, found in named:
        if found is not None:
            times = (found.min, found.mean, found.p50, found.p75, found.p95, found.p99, found.max)
            rows.append((name, *(f"{value * 1000:.3f}" for value in times), str(found.count)))
    return "\n".join(lines), DATASET_HEAD, rows
