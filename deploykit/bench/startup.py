"""From the command to a ready endpoint with everything in the cache, and the memory that it then holds."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence

from deploykit.bench.measure import median
from deploykit.bench.processes import memory_bytes
from deploykit.bench.report import Startup
from deploykit.errors import DeploykitError
from deploykit.plan.types import Plan
from deploykit.supervise import state
from deploykit.supervise.process import child_env, python_module

HELP_RUNS = 5


def measure(
    target: str,
    sets: Sequence[str],
    profiles: Sequence[str],
    plan: Plan,
    runs: int,
    report: Callable[[str], None],
) -> Startup:
    """Time `deploykit up -d` until it returns, which is when it serves, `runs` times.

    The cache must be warm already (preparing `plan` did that). Memory is read once ready and before any request:
    the engine's anonymous memory is what the plan predicts.
    """
    name = f"bench-{os.getpid()}"
    options = [f"--set={item}" for item in (*sets, f"name={name}")]
    options += [f"--profile={profile}" for profile in profiles]
    ready: list[float] = []
    front_rss = engine_anonymous = 0
    for run in range(1, runs + 1):
        try:
            ready.append(_timed(["up", target, "--detach", "--port", "0", *options]))
            record = state.read(name)
            if record is None or record.front_pid is None or record.engine_pid is None:
                raise DeploykitError("the deployment's record names no processes", where=name)
            front_rss = memory_bytes(record.front_pid)[0]
            engine_anonymous = memory_bytes(record.engine_pid)[1]
        finally:
            if (record := state.read(name)) is not None and record.live:
                _timed(["down", name])
        report(f"start {run} of {runs}: ready in {ready[-1]:.2f} s")
    state.forget(name)
    helps = [_timed(["--help"]) for _ in range(HELP_RUNS)]
    return Startup(
        target=target,
        ready_s=tuple(ready),
        ready_median_s=median(ready),
        front_rss_bytes=front_rss,
        engine_anonymous_bytes=engine_anonymous,
        planned_bytes=plan.total_bytes,
        help_s=tuple(helps),
        help_median_s=median(helps),
    )


def _timed(arguments: Sequence[str]) -> float:
    """Seconds that a command of ours takes. DeploykitError with its own words when it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        [*python_module("deploykit"), *arguments], env=child_env(), capture_output=True, text=True
    )
    if done.returncode:
        words = done.stderr.strip() or done.stdout.strip()
        raise DeploykitError(
            f"`deploykit {arguments[0]}` failed", why=words or f"exit code {done.returncode}"
        )
    return time.perf_counter() - start
