"""The C++ tests of native/, compiled with sanitizers into the cache: what did not change is not compiled again."""

from __future__ import annotations

import os
import re
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from deploykit.build import CPU, Progress, sources, tools
from deploykit.build.key import identify
from deploykit.build.tree import default_jobs, open_tree, toolset

SANITIZERS = "address,undefined"
LIMIT_S = 280
_LISTED = re.compile(r"Test +#\d+: (\S+)")


@dataclass(frozen=True)
class Outcome:
    passed: bool
    output: str


def written() -> list[str]:
    """Every tests/<room>/test_*.cpp, those for a GPU aside."""
    found = (sources.source_dir() / "tests").glob("*/test_*.cpp")
    return sorted(file.stem for file in found if file.parent.name != "cuda")


def compile_tests(jobs: int | None = None) -> Path:
    """Configure and compile; the folder that ctest runs in. Raises DeploykitError with the first error."""
    source = sources.source_dir()
    name = f"sanitized-{identify(source, CPU).tree}"
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "DEPLOYKIT_TESTS": "ON",
        "DEPLOYKIT_SANITIZE": SANITIZERS,
        "DEPLOYKIT_BINDINGS": "OFF",
    }
    with open_tree(name, source, _say) as tree:
        tree.snapshot(["tests"])
        tree.make(toolset(), options, jobs=jobs or default_jobs())
        return tree.build


def _say(progress: Progress) -> None:
    count = f"[{progress.done}/{progress.total}] " if progress.total else ""
    print(f"{count}{progress.text}", flush=True)  # pytest shows it where compiling fails


def run_tests(folder: Path, report: Path) -> dict[str, Outcome]:
    """Every test, side by side; their outcomes by name."""
    done = _ctest(folder, "-j", str(default_jobs()), "--timeout", str(LIMIT_S), "--output-junit", str(report))
    if not report.is_file():
        raise AssertionError(done.stdout + done.stderr)
    cases = ET.parse(report).getroot().iter("testcase")
    return {
        case.get("name", ""): Outcome(case.get("status") == "run", case.findtext("system-out") or "")
        for case in cases
    }


def registered(folder: Path) -> set[str]:
    return set(_LISTED.findall(_ctest(folder, "-N").stdout))


def _ctest(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    cmake = tools.cmake()
    assert cmake is not None
    env = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run(
        [str(Path(cmake.path).with_name("ctest")), "--test-dir", str(folder), *args],
        capture_output=True,
        text=True,
        errors="replace",
        env=env,
        check=False,
    )
