"""The working tree of a build: a snapshot of the sources, CMake's and Ninja's files, a log.

    native/work/<name>/        one for each target, compiler, interpreter and set of options
        src/                   the snapshot
        tree-<token>/          objects; `unfinished` is in it while CMake or Ninja run
        build.log              what the last build said
    native/work/<name>.lock

A tree is gone on with: only what changed is compiled. One whose build was killed is given up, for the compilers of a
killed build may still be writing into it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploykit.build import run, sources, tools
from deploykit.build.lock import hold, hold_if_free
from deploykit.build.store import KEPT_TREES, LOG, store_dir
from deploykit.build.types import Progress, Report
from deploykit.errors import DeploykitError

JOB_BYTES = 3 << 29  # 1.5 GiB: what one compiler may take
_UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Toolset:
    """The tools of one build, all there."""

    compiler: str
    cmake: str
    ninja: str


def default_jobs() -> int:
    """Compilers at once: a core each, and no more than the memory holds."""
    from deploykit.hardware.cpu import usable_cores
    from deploykit.hardware.memory import probe_memory

    available = probe_memory()[1]
    cores = usable_cores()
    return max(1, min(cores, available // JOB_BYTES)) if available else cores


class Tree:
    """A working tree that this process holds."""

    def __init__(self, folder: Path, source: Path, report: Report) -> None:
        self.folder = folder
        self.log = folder / LOG
        self._source = source
        self._report = report
        self._src = folder / "src"
        self.build = self._take_build_folder()

    def renew(self) -> None:
        """Begin with no objects."""
        shutil.rmtree(self.build, ignore_errors=True)
        self.build = self._take_build_folder()

    def snapshot(self, parts: Collection[str]) -> str:
        """Bring the snapshot up to date, with the optional folders `parts`; its digest."""
        self._src.mkdir(exist_ok=True)
        return sources.snapshot(self._source, self._src, parts)

    def make(self, tools_: Toolset, options: Mapping[str, str], *, jobs: int) -> None:
        """Configure with CMake and build everything. Raises DeploykitError with the first error of the output."""
        (self.build / _UNFINISHED).touch()
        with open(self.log, "w", encoding="utf-8") as log:
            log.write(f"# {time.strftime('%Y-%m-%d %H:%M:%S')} {self._source}, {jobs} jobs\n")
            self._configure(tools_, options, log)
            self._compile(tools_, log, jobs)

    def _configure(self, tools_: Toolset, options: Mapping[str, str], log: IO[str]) -> None:
        self._report(Progress("configure", "configuring"))
        command = [
            *(tools_.cmake, "-S", str(self._src), "-B", str(self.build), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tools_.ninja}",
            f"-DCMAKE_CXX_COMPILER={tools_.compiler}",
            *(f"-D{name}={value}" for name, value in options.items()),
        ]
        start = log.tell()
        code = run.run_logged(command, log)
        if code:
            # What CMake remembers of a failure must not stand in the way of the next attempt. The objects are whole.
            (self.build / "CMakeCache.txt").unlink(missing_ok=True)
            self._finished()
            self._fail("CMake can't configure the native library", start, code)

    def _compile(self, tools_: Toolset, log: IO[str], jobs: int) -> None:
        def line(text: str) -> None:
            if status := run.parse_status(text):
                done, total, what = status
                self._report(Progress("compile", what, done, total))

        start = log.tell()
        env = {"NINJA_STATUS": "[%f/%t] "}
        command = [tools_.ninja, "-C", str(self.build), "-j", str(jobs)]
        code = run.run_logged(command, log, line=line, ended=self._finished, env=env)
        if code:
            self._fail("the native library doesn't compile", start, code)

    def _finished(self) -> None:
        """Nobody writes into the folder any more, and what is there is whole."""
        (self.build / _UNFINISHED).unlink(missing_ok=True)

    def _fail(self, what: str, start: int, code: int) -> None:
        output = run.tail_of(self.log, start)
        why = run.first_error(output) or f"exit code {code}, and not a word"
        raise DeploykitError(
            what,
            where=str(self.log),
            why=why.replace(f"{self._src}{os.sep}", f"{self._source}{os.sep}"),
            fix=_fix(why),
        )

    def _take_build_folder(self) -> Path:
        """The folder of objects, where there is one and it is whole; else a new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = list(self.folder.glob("tree-*"))
        if len(found) == 1 and not (found[0] / _UNFINISHED).exists():
            return found[0]
        for folder in found:
            shutil.rmtree(folder, ignore_errors=True)
        build = self.folder / f"tree-{secrets.token_hex(4)}"
        build.mkdir()
        return build


def _fix(why: str) -> str:
    if "Killed" in why:
        return "the memory did not suffice: deploykit build --jobs 1"
    if "No space left" in why:
        return "free some space, or set DEPLOYKIT_CACHE to a folder on a larger disk"
    return "the log has everything; `engine.backend: pytorch` works without the native library"


def toolset() -> Toolset:
    """The tools, or DeploykitError that says what to install."""
    found = (tools.compiler(), tools.cmake(), tools.ninja())
    for tool, name, package in zip(
        found, ("C++ compiler", "CMake", "Ninja"), ("g++", "cmake", "ninja"), strict=True
    ):
        if tool is None:
            raise DeploykitError(f"there is no {name}", fix=f"install {package}; `deploykit doctor` says how")
    compiler, cmake, ninja = (tool.path for tool in found if tool)
    return Toolset(compiler, cmake, ninja)


@contextlib.contextmanager
def open_tree(name: str, source: Path, report: Report) -> Iterator[Tree]:
    """The working tree `name`, held; another process that has it is waited for."""
    work = store_dir() / "work"

    def waiting(holder: str) -> None:
        report(Progress("wait", f"{holder} builds the same; waiting for it"))

    with hold(work / f"{name}.lock", waiting):
        yield Tree(work / name, source, report)
        os.utime(work / name)
    prune_trees(keep=name)


def prune_trees(keep: str) -> None:
    """Remove all but the newest few working trees; one that is being built in stays."""
    work = store_dir() / "work"
    trees = [entry for entry in work.iterdir() if entry.is_dir() and entry.name != keep]
    for folder in sorted(trees, key=lambda entry: entry.stat().st_mtime, reverse=True)[KEPT_TREES - 1 :]:
        with hold_if_free(work / f"{folder.name}.lock") as held:
            if held:
                shutil.rmtree(folder, ignore_errors=True)
