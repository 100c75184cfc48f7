"""The stage "native": the compiled library that the planned engine needs, built where it isn't there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.deployment.stage import Report, Stage, stage

if TYPE_CHECKING:
    from deploykit.build import Build, Progress, Target
    from deploykit.hardware.machine import Machine
    from deploykit.plan.types import Plan


def target_of(plan: Plan, machine: Machine) -> Target:
    """What the library has to be built for to run `plan` on `machine`."""
    from deploykit.build import CPU, cuda_target

    if plan.device != "cuda":
        return CPU
    return cuda_target(next(gpu.compute_capability for gpu in machine.gpus if gpu.index in plan.devices))


def native_cuda_problem(machine: Machine) -> str | None:
    """The same for the library of the machine's first GPU; None where it has no GPU."""
    from deploykit.build import cuda_target, locate, problem

    if not machine.gpus:
        return None
    target = cuda_target(machine.gpus[0].compute_capability)
    return None if locate(target) is not None else problem(machine, target)


def native_problem(machine: Machine) -> str | None:
    """Why the CPU's library is not there and can't be built, for `make_plan`; None where it is, or can be.

    Raises ConfigError where DEPLOYKIT_NATIVE_DIR names a library that can't be used.
    """
    from deploykit.build import locate, problem

    return None if locate() is not None else problem(machine)


def ensure_native(target: Target, report: Report) -> Build:
    """The library for `target`, built before the engine starts. Raises DeploykitError."""
    from deploykit.build import ensure, locate

    if locate(target) is None:
        report(Stage(name="native", state="start", detail="not built yet: compiling it, once"))
    compiled = False
    with stage("native", report) as running:

        def on_progress(progress: Progress) -> None:
            nonlocal compiled
            compiled = compiled or progress.phase == "configure"
            if progress.phase in ("wait", "note"):  # what a person should know stays on the screen
                report(Stage(name="native", state="start", detail=progress.text))
                report(Stage(name="native", state="start"))
                return
            count = f"[{progress.done}/{progress.total}] " if progress.total else ""
            fraction = progress.done / progress.total if progress.total else None
            running.progress(f"{count}{progress.text}", fraction)

        found = ensure(target, on_progress)
        how = "built now" if compiled else "prebuilt" if found.origin == "prebuilt" else "built before"
        running.detail = f"{target.name}, {how}"
    return found
