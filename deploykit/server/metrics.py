"""Prometheus' text format, written by hand: a handful of counters, gauges and histograms."""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterable, Sequence

from deploykit.server.client import EngineState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Counts of seconds by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += count
        self.sum += value * count

    def lines(self, name: str, labels: Labels = ()) -> Iterable[str]:
        total = 0
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield f"{name}_bucket{_braces((*labels, ('le', bound)))} {total}"
        yield f"{name}_sum{_braces(labels)} {self.sum:.6f}"
        yield f"{name}_count{_braces(labels)} {total}"


class Metrics:
    """What the front process counts itself; what the engine counts comes with its heartbeats."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: dict[tuple[str, int], int] = {}
        self.in_flight = 0
        self.aborts: dict[str, int] = {"disconnect": 0, "timeout": 0, "drain": 0}
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.ttft = Histogram(_SLOW)
        self.itl = Histogram(_FAST)
        self.e2e = Histogram(_SLOW)

    def request(self, route: str, status: int) -> None:
        self.requests[(route, status)] = self.requests.get((route, status), 0) + 1

    def render(self, state: EngineState, *, connections: int) -> str:
        """The whole page; `connections` are the open HTTP connections."""
        page = _Page()
        page.add(
            "requests_total", "counter", "HTTP requests by route and status (499: the client went away)."
        )
        for (route, status), count in sorted(self.requests.items()):
            page.value("requests_total", count, (("route", route), ("status", str(status))))
        page.one("http_requests_in_flight", "gauge", "Requests that are being answered.", self.in_flight)
        page.one("http_connections", "gauge", "Open HTTP connections.", connections)
        page.add("aborts_total", "counter", "Requests ended before their answer was whole, by cause.")
        for cause, count in self.aborts.items():
            page.value("aborts_total", count, (("cause", cause),))
        page.one("prompt_tokens_total", "counter", "Prompt tokens of finished requests.", self.prompt_tokens)
        page.one(
            "prompt_cached_tokens_total",
            "counter",
            "Those of them served from the prefix cache.",
            self.cached_tokens,
        )
        page.one("output_tokens_total", "counter", "Tokens sent to clients.", self.output_tokens)
        for name, help_text, histogram in (
            ("time_to_first_token_seconds", "From a request's arrival to its first token.", self.ttft),
            ("inter_token_latency_seconds", "Between the tokens of one answer.", self.itl),
            ("e2e_request_latency_seconds", "From a request's arrival to its answer's end.", self.e2e),
        ):
            page.add(name, "histogram", help_text)
            page.lines += histogram.lines(f"deploykit_{name}")
        _engine(page, state)
        page.one("start_time_seconds", "gauge", "When this process started, Unix time.", self.started)
        return "\n".join(page.lines) + "\n"


def _engine(page: _Page, state: EngineState) -> None:
    page.one(
        "engine_up",
        "gauge",
        "1 while the engine takes work.",
        int(state.phase == "ready" and not state.stuck),
    )
    if state.ready is not None and state.ready.head_error is not None:
        page.one(
            "int8_head_error_ratio",
            "gauge",
            "Error of the int8 output head's weights over their size.",
            state.ready.head_error,
        )
    page.one("engine_restarts_total", "counter", "Times the engine came back.", state.restarts)
    beat = state.heartbeat
    if beat is None:
        return
    page.one("requests_running", "gauge", "Sequences that run in the engine.", beat.running)
    page.one("requests_waiting", "gauge", "Sequences that wait in the engine.", beat.waiting)
    page.add(
        "kv_blocks", "gauge", "KV blocks: total, used by running requests, cached (free, with a prefix)."
    )
    for kind, count in (
        ("total", beat.blocks_total),
        ("used", beat.blocks_used),
        ("cached", beat.blocks_cached),
    ):
        page.value("kv_blocks", count, (("state", kind),))
    usage = beat.blocks_used / beat.blocks_total if beat.blocks_total else 0.0
    page.one("kv_usage_ratio", "gauge", "Share of the KV blocks in use.", round(usage, 6))
    counted = "; since the engine's start."
    page.one("preemptions_total", "counter", "Preempted sequences" + counted, beat.preemptions)
    page.one("engine_steps_total", "counter", "Steps" + counted, beat.step)
    page.one("engine_prompt_tokens_total", "counter", "Prompt tokens computed" + counted, beat.prompt_tokens)
    page.one(
        "prefix_cache_hit_tokens_total",
        "counter",
        "Prompt tokens from the prefix cache" + counted,
        beat.cached_tokens,
    )
    page.one("engine_output_tokens_total", "counter", "Tokens drawn" + counted, beat.output_tokens)
    page.one("engine_aborted_total", "counter", "Aborted requests" + counted, beat.aborted)
    page.one("engine_failed_total", "counter", "Failed requests" + counted, beat.failed)


class _Page:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, name: str, kind: str, help_text: str) -> None:
        self.lines += [f"# HELP deploykit_{name} {help_text}", f"# TYPE deploykit_{name} {kind}"]

    def value(self, name: str, value: float, labels: Labels = ()) -> None:
        self.lines.append(f"deploykit_{name}{_braces(labels)} {value}")

    def one(self, name: str, kind: str, help_text: str, value: float) -> None:
        self.add(name, kind, help_text)
        self.value(name, value)


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    inner = ",".join(f'{key}="{_escape(value)}"' for key, value in labels)
    return "{" + inner + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
