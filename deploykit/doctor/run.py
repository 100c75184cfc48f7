"""The whole examination: one probe, every check, every recipe."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

import deploykit
from deploykit.doctor.catalogue import CHECKS
from deploykit.doctor.check import Check, CheckSpec, Context, Finding, Once, Status, ok, run_check, run_checks
from deploykit.doctor.recipes import Bench, RecipeRow, Table, bench_of, judge, shipped_recipes
from deploykit.fsutil import cache_dir, state_dir
from deploykit.hardware import CPU, Machine, probe
from deploykit.hardware.nvml import GpuStates
from deploykit.recipe import LoadedRecipe
from deploykit.recipe.files import STDIN

T = TypeVar("T")

PROBE_LIMIT_S = 5.0
STATES_LIMIT_S = 1.0  # the checks have asked already
RECIPE_LIMIT_S = 10.0  # for the given one
TABLE_LIMIT_S = 30.0
RECIPE = "Recipe"  # the category of the given one


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is the worst of the checks; `skip` counts as ok."""

    version: str
    status: Status
    machine: Machine
    checks: tuple[Check, ...]
    recipes: tuple[RecipeRow, ...]
    took_ms: float
    recipes_ms: float = 0.0  # of that, for the table
    gpus: GpuStates = GpuStates()  # how the machine's GPUs are doing; empty where the driver doesn't answer


def examine(
    given: LoadedRecipe | None = None,
    *,
    specs: Sequence[CheckSpec] | None = None,
    machine: Machine | None = None,
    recipes: Sequence[Path] | None = None,
) -> Report:
    """Examine this machine, and `given` on it. Never raises for what it finds.

    `specs`, `machine` and `recipes` are for tests: other checks, another machine, other files than the shipped ones.
    """
    began = time.perf_counter()
    cache = cache_dir()
    here = _probe(cache) if machine is None else machine
    context = Context(machine=here, cache=cache, state=state_dir())
    bench = Once(lambda: bench_of(here, cache))
    rows: list[RecipeRow] = []
    last: list[Check] = []
    if given is not None:
        server = given.recipe.server
        context = replace(context, host=server.host, port=server.port, given=given)
        row, check = _judge_given(given, context, bench)
        rows.append(row)
        last.append(check)
        context = replace(context, missing_bytes=row.missing_bytes)
    files = _others(given, shipped_recipes() if recipes is None else recipes)
    took = 0.0

    def judge_others() -> None:
        nonlocal took
        start = time.perf_counter()
        rows.extend(Table(files, bench).judge_all(TABLE_LIMIT_S))
        took = time.perf_counter() - start

    checks = run_checks(CHECKS if specs is None else specs, context, meanwhile=judge_others) + last
    return Report(
        version=deploykit.__version__,
        status=worst(checks),
        machine=here,
        checks=tuple(checks),
        recipes=tuple(rows),
        took_ms=round((time.perf_counter() - began) * 1e3, 1),
        recipes_ms=round(took * 1e3, 1),
        gpus=_within(STATES_LIMIT_S, context.gpus) or GpuStates() if here.gpus else GpuStates(),
    )


def _others(given: LoadedRecipe | None, files: Sequence[Path]) -> list[Path]:
    done = {given.path.resolve()} if given is not None and given.path else set()
    return [file for file in files if file.resolve() not in done]


def worst(checks: Sequence[Check]) -> Status:
    found = {check.status for check in checks}
    return "fail" if "fail" in found else "warn" if "warn" in found else "ok"


def _judge_given(given: LoadedRecipe, context: Context, bench: Once[Bench]) -> tuple[RecipeRow, Check]:
    """The row of the given recipe, and the check that it makes; a disk that hangs makes a warning."""
    rows: list[RecipeRow] = []

    def look(_: Context) -> Finding:
        rows.append(judge(given, bench()))
        path = given.recipe.model.path
        return _verdict(rows[0], _target(given), path if path and not os.path.lexists(path) else None)

    spec = CheckSpec("recipe", f"Recipe {given.name}", look, RECIPE_LIMIT_S, category=RECIPE)
    check = run_check(spec, context)
    if rows:
        return rows[0], check
    path = str(given.path) if given.path else None
    return RecipeRow(recipe=given.name, path=path, fits="unknown", why=check.why), check


def _target(given: LoadedRecipe) -> str:
    """What the recipe is called on a command line; one that no file holds stands for its model."""
    model = given.recipe.model
    if given.path == STDIN:
        return "-"
    return str(given.path) if given.path is not None else model.path or model.id or given.name


def _verdict(row: RecipeRow, target: str, gone: str | None = None) -> Finding:
    """`gone` is where the recipe has its model and nothing is."""
    command = f"deploykit plan {target}"
    running = ", ".join(v.name for v in row.variants if v.fits == "yes")
    if row.fits == "yes":
        return ok(
            f"runs on {row.device} with {row.engine}: {row.session_len} x {row.sessions} (context x sessions)"
        )
    if row.fits == "unknown":
        if gone:
            why = f"there is no such folder or file: {gone}"
            return Finding("fail", "its model is not where the recipe says", why, "correct model.path")
        why = "what it needs can be told once its model is known"
        return Finding("warn", row.why, why, f"{command} (asks its hub for the headers)")
    if running:
        return Finding(
            "fail", "doesn't run here as it is", row.why, f"use a variant that does (--profile): {running}"
        )
    if row.fits == "unsupported":
        return Finding(
            "fail", "no engine of this version runs its model", row.why, "deploykit ls shows the others"
        )
    return Finding("fail", "doesn't run here", row.why, f"{command} names the changes that would help")


def _within(limit_s: float, ask: Callable[[], T]) -> T | None:
    """The answer, or None after `limit_s`: a driver that hangs must not hang the doctor."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(ask()), daemon=True, name="doctor-probe")
    thread.start()
    thread.join(limit_s)
    return found[0] if found else None


def _probe(cache: Path) -> Machine:
    found = _within(PROBE_LIMIT_S, lambda: probe(disk=cache))
    if found is not None:
        return found
    return Machine(
        system=platform.system(),
        arch=platform.machine(),
        cpu=CPU(model="unknown", cores=1),
        memory_total=0,
        memory_available=0,
        disk_free=0,
        gpu_error=f"the machine didn't answer within {PROBE_LIMIT_S:g} s: the GPU driver may hang",
    )
