"""The arithmetic of measurements: medians, percentiles, spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0..100) by linear interpolation between the closest ranks; NaN of nothing is refused."""
    if not values:
        raise ValueError("no values")
    if not 0 <= q <= 100:
        raise ValueError("q is outside 0..100")
    ordered = sorted(values)
    at = (len(ordered) - 1) * q / 100
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def spread(values: Sequence[float]) -> float:
    """Largest minus smallest, as a share of the median."""
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution in a few numbers, in the unit of its values."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


def summarize(values: Sequence[float]) -> Summary | None:
    """None where nothing was measured."""
    if not values:
        return None
    p50, p90, p99 = (percentile(values, q) for q in (50, 90, 99))
    mean = math.fsum(values) / len(values)
    return Summary(count=len(values), mean=mean, p50=p50, p90=p90, p99=p99, max=max(values))
