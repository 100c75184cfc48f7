"""The whole examination: one probe, every check, every recipe."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

import deploykit
from deploykit.doctor import hardware, native, serving, software, system
from deploykit.doctor.check import Check, CheckSpec, Context, Finding, Status, ok, run_check, run_checks
from deploykit.doctor.recipes import RecipeRow, judge, judge_file, shipped_recipes
from deploykit.fsutil import cache_dir, state_dir
from deploykit.hardware import CPU, Machine, probe
from deploykit.recipe import LoadedRecipe

CHECKS: tuple[CheckSpec, ...] = (
    CheckSpec("python", "Python", system.python),
    CheckSpec("os", "Operating system", system.operating_system),
    CheckSpec("locale", "Text encoding", system.utf8),
    CheckSpec("container", "Container and limits", system.container),
    CheckSpec("cpu", "CPU", hardware.cpu),
    CheckSpec("memory", "Memory", hardware.memory),
    CheckSpec("disk", "Disk", hardware.disk),
    CheckSpec("gpu", "GPU", hardware.gpu),
    CheckSpec("gpu-torch", "GPU, driver and torch", hardware.gpu_torch),
    CheckSpec("torch", "torch", software.torch),
    CheckSpec("transformers", "transformers", software.transformers),
    CheckSpec("compiler", "Compilers", native.compiler),
    CheckSpec("build-tools", "CMake, Ninja, pybind11", native.build_tools),
    CheckSpec("native", "Native library", native.cpu_library, limit_s=5.0),
    CheckSpec("native-cuda", "Native library (CUDA)", native.cuda_library, limit_s=5.0),
    CheckSpec("hub", "Hugging Face", software.hub),
    CheckSpec("open-files", "Open files (ulimit -n)", system.open_files),
    CheckSpec("port", "Port", serving.port),
    CheckSpec("cache", "Cache folder", serving.cache_folder),
    CheckSpec("state", "State folder", serving.state_folder),
    CheckSpec("runtime", "Runtime folder", serving.runtime_folder),
)

PROBE_LIMIT_S = 5.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is the worst of the checks; `skip` counts as ok."""

    version: str
    status: Status
    machine: Machine
    checks: tuple[Check, ...]
    recipes: tuple[RecipeRow, ...]
    took_ms: float


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
    if machine is None:
        machine = _probe(cache)
    context = Context(machine=machine, cache=cache, state=state_dir())
    if given is not None:
        server = given.recipe.server
        context = Context(
            machine=machine, cache=cache, state=context.state, host=server.host, port=server.port
        )
    checks = run_checks(CHECKS if specs is None else specs, context)
    rows = []
    if given is not None:
        rows.append(judge(given, machine, cache))
        checks.append(
            run_check(CheckSpec("recipe", f"Recipe {given.name}", lambda _: _verdict(rows[0])), context)
        )
    done = {given.path.resolve()} if given is not None and given.path else set()
    for path in shipped_recipes() if recipes is None else recipes:
        if path.resolve() not in done:
            rows.append(judge_file(path, machine, cache))
    return Report(
        version=deploykit.__version__,
        status=worst(checks),
        machine=machine,
        checks=tuple(checks),
        recipes=tuple(rows),
        took_ms=round((time.perf_counter() - began) * 1e3, 1),
    )


def worst(checks: Sequence[Check]) -> Status:
    found = {check.status for check in checks}
    return "fail" if "fail" in found else "warn" if "warn" in found else "ok"


def _verdict(row: RecipeRow) -> Finding:
    if row.fits == "yes":
        return ok(f"fits on {row.device}: {row.sessions} x {row.session_len} tokens at once")
    if row.fits == "unknown":
        why = "what it needs can be told once its model is on the disk"
        return Finding("warn", row.why, why, f"deploykit plan {row.path or row.recipe} --fetch")
    return Finding("fail", row.why, fix=f"deploykit plan {row.path or row.recipe}")


def _probe(cache: Path) -> Machine:
    """The probe under a time limit: a driver that hangs must not hang the doctor."""
    found: list[Machine] = []
    thread = threading.Thread(
        target=lambda: found.append(probe(disk=cache)), daemon=True, name="doctor-probe"
    )
    thread.start()
    thread.join(PROBE_LIMIT_S)
    if found:
        return found[0]
    return Machine(
        system=platform.system(),
        arch=platform.machine(),
        cpu=CPU(model="unknown", cores=1),
        memory_total=0,
        memory_available=0,
        disk_free=0,
        gpu_error=f"the machine didn't answer within {PROBE_LIMIT_S:g} s: the GPU driver may hang",
    )
