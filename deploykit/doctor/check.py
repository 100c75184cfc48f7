"""What a check is and how checks are run: side by side, each with its own time limit, none able to end the others."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import msgspec

from deploykit.doctor.redact import mask_secrets
from deploykit.hardware.machine import Machine
from deploykit.hardware.nvml import GpuStates, probe_states

if TYPE_CHECKING:
    from deploykit.recipe import LoadedRecipe

T = TypeVar("T")
Status = Literal["ok", "warn", "fail", "skip"]


class Finding(msgspec.Struct, frozen=True):
    """What a check saw. `why` says why it matters, `fix` what to do; both empty where all is well.

    `details` are further lines, such as a table, for those who want to see everything.
    """

    status: Status
    found: str
    why: str = ""
    fix: str = ""
    details: tuple[str, ...] = ()


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A check that was run."""

    id: str
    category: str
    title: str
    status: Status
    found: str
    why: str = ""
    fix: str = ""
    details: tuple[str, ...] = ()
    took_ms: float


class Once(Generic[T]):
    """What several checks want to know, asked once. A question that hangs hangs each of them, up to its own limit."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answer: list[T] = []

    def __call__(self) -> T:
        with self._lock:
            if not self._answer:
                self._answer.append(self._ask())
            return self._answer[0]


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
    given: LoadedRecipe | None = None  # the recipe that the examination is for
    missing_bytes: int | None = None  # what of its model is not on the disk yet, where that is known
    gpus: Callable[[], GpuStates] = field(default_factory=lambda: Once(probe_states))


@dataclass(frozen=True)
class CheckSpec:
    """`slow` ones start a process or ask the network: they run beside everything else."""

    id: str
    title: str
    look: Callable[[Context], Finding]
    limit_s: float = 2.0
    category: str = ""
    slow: bool = False


def ok(found: str, *details: str) -> Finding:
    return Finding("ok", found, details=details)


def skip(found: str, why: str = "") -> Finding:
    return Finding("skip", found, why)


class Running:
    """A check in a thread of its own, which is left behind if it hangs."""

    def __init__(self, spec: CheckSpec, context: Context) -> None:
        self._spec = spec
        self._began = time.perf_counter()
        self._result: list[tuple[Finding, float]] = []
        work = partial(self._work, context)
        self._thread = threading.Thread(target=work, daemon=True, name=f"doctor-{spec.id}")
        self._thread.start()

    def _work(self, context: Context) -> None:
        try:
            finding = self._spec.look(context)
        except BaseException as error:  # SystemExit too: whatever it is, it is this check's alone
            text = f"{type(error).__name__}: {error}"
            finding = Finding("warn", "not known", f"the check itself failed: {text}")
        self._result.append((finding, time.perf_counter() - self._began))

    def finish(self) -> Check:
        """Its finding, waited for as long as its limit allows."""
        limit = self._spec.limit_s
        self._thread.join(max(0.0, self._began + limit - time.perf_counter()))
        if self._result:
            finding, took = self._result[0]
        else:
            finding = Finding("warn", "not known", f"there was no answer within {limit:g} s")
            took = time.perf_counter() - self._began
        return _check(self._spec, finding, took)


def _check(spec: CheckSpec, finding: Finding, took: float) -> Check:
    """Every text passes the mask: a process's command line, an address or an error may hold a key."""
    return Check(
        id=spec.id,
        category=spec.category,
        title=spec.title,
        status=finding.status,
        found=mask_secrets(finding.found),
        why=mask_secrets(finding.why),
        fix=mask_secrets(finding.fix),
        details=tuple(mask_secrets(line) for line in finding.details),
        took_ms=round(took * 1e3, 2),
    )


def run_check(spec: CheckSpec, context: Context) -> Check:
    """Run one check; a crash or a hang of it becomes its finding."""
    return Running(spec, context).finish()


def run_checks(
    specs: Sequence[CheckSpec], context: Context, *, meanwhile: Callable[[], object] = lambda: None
) -> list[Check]:
    """All checks, in their order. `meanwhile` is done in this thread while the slow ones wait for their answers."""
    # The quick ones first: their limits are short, and a process that starts takes the machine's time.
    quick = {id(spec): Running(spec, context) for spec in specs if not spec.slow}
    done = {key: running.finish() for key, running in quick.items()}
    slow = {id(spec): Running(spec, context) for spec in specs if spec.slow}
    meanwhile()
    done |= {key: running.finish() for key, running in slow.items()}
    return [done[id(spec)] for spec in specs]
