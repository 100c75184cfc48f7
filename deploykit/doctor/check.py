"""What a check is and how one is run: with a time limit of its own, and never able to end the others."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from deploykit.hardware.machine import Machine

Status = Literal["ok", "warn", "fail", "skip"]


class Finding(msgspec.Struct, frozen=True):
    """What a check saw. `why` says why it matters, `fix` what to do; both empty where all is well."""

    status: Status
    found: str
    why: str = ""
    fix: str = ""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A check that was run."""

    id: str
    title: str
    status: Status
    found: str
    why: str = ""
    fix: str = ""
    took_ms: float


@dataclass(frozen=True)
class Context:
    """What every check may look at. `port` is the one that a deployment would take."""

    machine: Machine
    cache: Path
    state: Path
    host: str = "127.0.0.1"
    port: int = 23333
    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True)
class CheckSpec:
    id: str
    title: str
    look: Callable[[Context], Finding]
    limit_s: float = 2.0


def ok(found: str) -> Finding:
    return Finding("ok", found)


def run_check(spec: CheckSpec, context: Context) -> Check:
    """Run one check; a crash or a hang of it becomes its finding."""
    began = time.perf_counter()
    finding = run_limited(spec.look, context, limit_s=spec.limit_s)
    return Check(
        id=spec.id,
        title=spec.title,
        status=finding.status,
        found=finding.found,
        why=finding.why,
        fix=finding.fix,
        took_ms=round((time.perf_counter() - began) * 1e3, 2),
    )


def run_checks(specs: Sequence[CheckSpec], context: Context) -> list[Check]:
    return [run_check(spec, context) for spec in specs]


def run_limited(look: Callable[[Context], Finding], context: Context, *, limit_s: float) -> Finding:
    """The finding, or a warning that says how the check itself failed. A check that hangs is left behind."""
    results: list[Finding] = []

    def work() -> None:
        try:
            results.append(look(context))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            results.append(Finding("warn", "not known", f"the check itself failed: {text}"))

    thread = threading.Thread(target=work, daemon=True, name="doctor-check")
    thread.start()
    thread.join(limit_s)
    if not results:
        return Finding("warn", "not known", f"there was no answer within {limit_s:g} s")
    return results[0]
