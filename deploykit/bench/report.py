"""What a benchmark writes: machine facts and raw figures, in one JSON document with a schema."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec

import deploykit
from deploykit import hardware
from deploykit.bench.measure import Summary
from deploykit.bench.predictions_report import Prediction
from deploykit.bench.suite_report import DatasetLoad, Suite
from deploykit.bench.versus_report import Perplexity, Versus
from deploykit.bench.workload import Workload
from deploykit.fsutil import write_atomic

SCHEMA = "deploykit.bench/1"
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "starlette", "uvicorn")


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured. Unknown is None."""

    cpu: str
    cores: int
    flags: tuple[str, ...]
    memory_total: int  # bytes
    system: str
    python: str
    gpus: tuple[str, ...]
    load_average: float | None  # runnable processes over the minute before the run
    packages: dict[str, str]
    deploykit: str
    commit: str | None  # with `+changes` where the tree differs from it


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison. All lists are in the order of the runs."""

    name: str
    dtype: str
    threads: int
    seconds: tuple[float, ...]  # from the first submission to the last token, prefill included
    tokens_per_s: tuple[float, ...]  # output tokens
    median: float  # of tokens_per_s
    spread: float  # (largest - smallest) / median
    ttft_s: tuple[float, ...] = ()  # first token of the first request, where the side streams
    idle_cpu_s: float | None = None  # processor time it used while the other side was measured


class Comparison(msgspec.Struct, frozen=True, kw_only=True, tag="engine"):
    """The engine and a peer on the same weights and prompts, run in turns."""

    workload: Workload
    model: str
    parameters: int
    runs: int
    ours: Peer
    peer: Peer
    ratio: float  # of the medians, ours over the peer's


class HostOverhead(msgspec.Struct, frozen=True, kw_only=True, tag="host_overhead"):
    """Host time from collecting a step to launching the next, on the fake runner."""

    rows: int
    steps: int
    overlap_depth: int
    milliseconds: Summary
    samples_ms: tuple[float, ...]


class HttpLoad(msgspec.Struct, frozen=True, kw_only=True, tag="http"):
    """Streamed completions over HTTP, as a client sees them. Latencies in seconds."""

    workload: Workload
    url: str
    model: str
    seconds: float
    completed: int
    errors: dict[str, int]  # message -> how often
    prompt_tokens: int
    output_tokens: int
    requests_per_s: float
    output_tokens_per_s: float
    ttft_s: Summary | None  # to the first text
    itl_s: Summary | None  # between pieces of text
    tpot_s: Summary | None  # a request's time after its first text, per token
    latency_s: Summary | None
    raw_ttft_s: tuple[float, ...] = ()
    raw_latency_s: tuple[float, ...] = ()


class Startup(msgspec.Struct, frozen=True, kw_only=True, tag="startup"):
    """From the command to a ready endpoint with everything in the cache, and what the processes then hold."""

    target: str
    ready_s: tuple[float, ...]
    ready_median_s: float
    front_rss_bytes: int
    engine_anonymous_bytes: int
    planned_bytes: int
    help_s: tuple[float, ...]
    help_median_s: float


Result = (
    Comparison | HostOverhead | HttpLoad | Startup | Versus | Perplexity | Suite | DatasetLoad | Prediction
)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    schema: str
    created: str  # ISO 8601, UTC
    command: str
    machine: MachineFacts
    results: tuple[Result, ...]


def make_report(results: tuple[Result, ...], machine: MachineFacts) -> Report:
    """`machine` is what `machine_facts` said before anything was measured."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    command = shlex.join(["deploykit", *sys.argv[1:]])
    return Report(schema=SCHEMA, created=created, command=command, machine=machine, results=results)


def write_report(report: Report, path: Path) -> None:
    write_atomic(path, encode(report))


def encode(report: Report) -> bytes:
    """The document as it is written."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def read_report(path: Path) -> Report:
    """Raises msgspec.ValidationError for a document of another shape."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def machine_facts() -> MachineFacts:
    machine = hardware.probe()
    return MachineFacts(
        cpu=machine.cpu.model,
        cores=machine.cpu.cores,
        flags=machine.cpu.flags,
        memory_total=machine.memory_total,
        system=platform.platform(),
        python=platform.python_version(),
        gpus=tuple(gpu.name for gpu in machine.gpus),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        packages=_versions(),
        deploykit=deploykit.__version__,
        commit=_commit(),
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The checkout that this package runs from, or None for an installed one."""
    root = Path(deploykit.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
