"""Sides measured in turns: trying settings, then rounds, and what comes out of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

from deploykit.bench.figures import Figure, Job
from deploykit.bench.measure import median, spread
from deploykit.bench.processes import busy_seconds, cpu_seconds
from deploykit.bench.sides import OURS, OURS_HTTP, Side
from deploykit.bench.versus_report import FigureResult, Measured, Sample
from deploykit.bench.work import Work

TRIES_FROM = 1_000_000  # the number of the first try's prompts: never those of a round
Say = Callable[[str], None]
Best = dict[tuple[str, str], str | None]  # (figure, side) -> setting


def take(side: Side, job: Job, round_: int, run: int, settle: float) -> list[Sample]:
    """One run of `side`, after `settle` seconds in which the one before it goes to sleep."""
    time.sleep(settle)
    before = _elsewhere(side)
    start = time.perf_counter()
    values = side.measure(job, run)
    wall = time.perf_counter() - start
    after = _elsewhere(side)
    other = None
    if before is not None and after is not None and side.pids():
        other = max(0.0, (after - before) / wall)
    return [
        Sample(round=round_, figure=name, side=side.name, setting=side.setting, value=value, elsewhere=other)
        for name, value in values.items()
    ]


def tune(sides: Sequence[Side], jobs: Sequence[Job], tries: int, settle: float, say: Say) -> list[Sample]:
    """Every side at every job that it can do, `tries` times in turns."""
    samples = []
    for attempt in range(tries):
        for job in jobs:
            for side in sides:
                if side.can(job):
                    new = take(side, job, attempt, TRIES_FROM + attempt, settle)
                    samples += new
                    _tell(say, f"try {attempt + 1} of {tries}", new)
    return samples


def best_settings(samples: Sequence[Sample], jobs: Sequence[Job]) -> Best:
    """The setting with the best median of each side at each figure, the first try left out where there are more."""
    warm = [s for s in samples if s.round > 0] or list(samples)
    higher = {figure.name: figure.higher_is_better for job in jobs for figure in job.figures}
    values: dict[tuple[str, str], dict[str | None, list[float]]] = {}
    for s in warm:
        values.setdefault((s.figure, s.side), {}).setdefault(s.setting, []).append(s.value)
    best: Best = {}
    for (figure, side), found in values.items():
        pick = max if higher[figure] else min
        best[figure, side] = pick(found, key=lambda setting, f=found: median(f[setting]))  # type: ignore[misc]
    return best


def rounds(
    sides: Sequence[Side], jobs: Sequence[Job], best: Best, count: int, settle: float, say: Say
) -> list[Sample]:
    """`count` rounds of all jobs, sides in turns within a job; who begins moves on. Round 0 warms up.

    A side in a setting that isn't the best at any figure of a job sits that job out.
    """
    samples = []
    for number in range(count + 1):
        for job in jobs:
            able = [s for s in sides if s.can(job) and _wanted(s, job, best)]
            shift = number % len(able) if able else 0
            for side in able[shift:] + able[:shift]:
                if number == 0 and job.kind == "fresh":
                    continue  # everything is in the page cache by then
                new = take(side, job, number, number, settle)
                if number:
                    samples += new
                    _tell(say, f"round {number} of {count}", new)
    return samples


def _wanted(side: Side, job: Job, best: Best) -> bool:
    chosen = [best[f.name, side.name] for f in job.figures if (f.name, side.name) in best]
    return not chosen or side.setting in chosen


def result_of(
    figure: Figure, samples: Sequence[Sample], best: Best, work: Work, chosen: Mapping[str, str]
) -> FigureResult | None:
    """One row, of the medians of the same rounds; None where our side has no sample of it.

    HTTP is compared with our own engine. `chosen` are the settings of the fresh processes, which weren't tuned.
    """
    mine = OURS_HTTP if figure.group == "http" else OURS
    source = f"batch_{figure.job.requests}" if figure.group == "http" else figure.name
    ours = _measured(
        figure, mine, None, [s for s in samples if s.figure == figure.name and s.side == mine], work
    )
    if ours is None:
        return None
    others = []
    names = dict.fromkeys(s.side for s in samples if s.figure == source and s.side != mine)
    for name in [OURS] if figure.group == "http" else names:
        setting = best.get((source, name), chosen.get(name))
        theirs = [s for s in samples if s.figure == source and s.side == name and s.setting == setting]
        if other := _measured(figure, name, setting, theirs, None):
            others.append(other)
    return FigureResult(
        name=figure.name,
        title=figure.title,
        unit=figure.unit,
        higher_is_better=figure.higher_is_better,
        ours=ours,
        others=tuple(others),
        ratios={other.side: ours.median / other.median for other in others},
    )


def _measured(
    figure: Figure, side: str, setting: str | None, samples: Sequence[Sample], work: Work | None
) -> Measured | None:
    if not samples:
        return None
    values = tuple(s.value for s in samples)
    middle = median(values)
    gbytes, gflops = work.achieved(figure, middle) if work is not None else (None, None)
    return Measured(
        side=side,
        setting=setting,
        samples=values,
        median=middle,
        spread=spread(values),
        gbytes_per_s=gbytes,
        gflops=gflops,
    )


def _elsewhere(side: Side) -> float | None:
    """Processor seconds so far of everything but the side's processes and this one, which is its client."""
    busy = busy_seconds()
    if busy is None:
        return None
    return busy - sum(cpu_seconds(pid) or 0.0 for pid in (*side.pids(), os.getpid()))


def _tell(say: Say, when: str, samples: Sequence[Sample]) -> None:
    for s in samples:
        side = f"{s.side} ({s.setting})" if s.setting else s.side
        busy = f", {s.elsewhere:.1f} cores busy elsewhere" if s.elsewhere and s.elsewhere > 0.1 else ""
        say(f"{when}, {s.figure}, {side}: {amount(s.value, s.figure)}{busy}")


def amount(value: float, figure: str) -> str:
    """A value with its unit."""
    if figure == "memory":
        return f"{value / (1 << 20):.0f} MiB"
    return f"{value:.2f} s" if figure == "start" else f"{value:,.1f} tok/s"
