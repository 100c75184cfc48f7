"""Building the library, and having one."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from deploykit.build import cuda, prebuilt, sources, store, tools
from deploykit.build.check import Verdict, judge
from deploykit.build.key import Identity, identify
from deploykit.build.problem import problem
from deploykit.build.tree import Tree, default_jobs, open_tree, toolset
from deploykit.build.types import CPU, Build, Progress, Report, Target, ignore
from deploykit.errors import DeploykitError

_DISK_BYTES = 512 << 20


def locate(target: Target = CPU) -> Build | None:
    """The library of the present sources for `target`: a prebuilt one, or a build of the cache. Compiles nothing.

    Milliseconds; a prebuilt library is checked in a child process when it is first seen. Raises ConfigError where
    DEPLOYKIT_NATIVE_DIR names one that can't be used.
    """
    return prebuilt.find(target) or store.find(target)


def ensure(target: Target = CPU, report: Report = ignore) -> Build:
    """The library for `target`, built if it isn't there, and checked in a child process.

    One that is there and doesn't load is named and built again. Raises DeploykitError where that fails.
    """
    found = locate(target)
    if found is None:
        return build(target, report=report)
    why = _check(found).why
    if why is None:
        return found
    if found.origin == "prebuilt":
        raise DeploykitError("the prebuilt native library can't be used", where=str(found.module), why=why)
    return build(target, report=report)


def build(
    target: Target = CPU, *, jobs: int | None = None, force: bool = False, report: Report = ignore
) -> Build:
    """Build the present sources for `target` into the cache; nothing is done where they are built already.

    `force` builds them all the same, and from nothing: no object of an earlier build is used.

    `jobs` is how many compilers run at once (default: `tree.default_jobs`). Raises DeploykitError: what is missing,
    the compiler's first error with the log's path, or what is wrong with the result.
    """
    require(target)
    source = sources.source_dir()
    with open_tree(identify(source, target).tree, source, report) as tree:
        # The identity of what is compiled, whatever happens to the sources meanwhile.
        identity = identify(source, target, digest=tree.snapshot(sources.parts_of(target)))
        folder = store.store_dir() / identity.key
        present = store.read(folder, target)
        if present and not force:
            why = _check(present).why
            if why is None:
                return present
            report(Progress("note", f"{folder} can't be used ({why}): it is built again"))
        if present or force:
            tree.renew()
        began = time.monotonic()
        tree.make(toolset(), options(target), jobs=jobs or default_jobs())
        made = _install(tree, source, target, identity, time.monotonic() - began, report)
    store.prune(keep=made.key)
    return made


def require(target: Target) -> None:
    """Raises DeploykitError that says what to install where nothing can be built for `target`."""
    from deploykit.hardware import probe

    if target.arch:
        cuda.check_arch(target.arch)
    machine = probe(disk=store.store_dir())
    if why := problem(machine, target):
        raise DeploykitError(
            "the native library can't be built on this machine",
            why=why,
            fix="install that and try again; `engine.backend: pytorch` works without it",
        )
    if 0 < machine.disk_free < _DISK_BYTES:
        raise DeploykitError(
            "there is too little disk space to build the native library",
            where=str(store.store_dir()),
            why=f"{machine.disk_free >> 20} MiB are free, {_DISK_BYTES >> 20} are needed",
            fix="free some space, or set DEPLOYKIT_CACHE to a folder on a larger disk",
        )


def options(target: Target) -> dict[str, str]:
    """CMake's options for a library with its Python module."""
    chosen = {
        "CMAKE_BUILD_TYPE": "Release",
        "DEPLOYKIT_BINDINGS": "ON",
        "DEPLOYKIT_TESTS": "OFF",
        "DEPLOYKIT_SANITIZE": "",
        "DEPLOYKIT_WERROR": "OFF",
        "Python_EXECUTABLE": sys.executable,
        "PYBIND11_FINDPYTHON": "ON",
        "pybind11_DIR": str(tools.pybind11_folder() or ""),
        "DEPLOYKIT_CUDA": "OFF",
    }
    if target.kind == "cuda":
        chosen |= {
            "DEPLOYKIT_CUDA": "ON",
            "CMAKE_CUDA_ARCHITECTURES": str(target.arch),
            "CMAKE_CUDA_COMPILER": str(cuda.nvcc()),
            "CMAKE_CUDA_HOST_COMPILER": toolset().compiler,
            "DEPLOYKIT_CUBLAS_ROOT": str(cuda.cublas_root() or ""),
        }
    return chosen


def _install(
    tree: Tree, source: Path, target: Target, identity: Identity, seconds: float, report: Report
) -> Build:
    """Stage what the tree has built, check it there, and rename it into the cache."""
    made = [_made(tree, store.library_name()), _made(tree, store.module_name())]
    staged = store.stage()
    try:
        for file in made:
            shutil.copy2(file, staged / file.name)
        shutil.copy2(tree.log, staged / store.LOG)
        report(Progress("check", "loading it"))
        abi = sources.abi_version(source)
        verdict = judge(staged / store.module_name(), target, abi)
        if verdict.why:
            raise DeploykitError(
                "the native library was built and can't be used",
                where=str(tree.log),
                why=verdict.why,
                fix="deploykit build --force; if it stays so, report it with the log",
            )
        manifest = store.Manifest(
            format=store.FORMAT,
            identity=identity,
            abi_version=abi,
            devices=verdict.answer.devices,
            files={file.name: file.stat().st_size for file in made},
            seconds=round(seconds, 1),
            built=time.time(),
        )
        folder = store.install(staged, manifest)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    installed = store.read(folder, target)
    if installed is None:
        raise DeploykitError("the native library vanished as it was built", where=str(folder))
    return installed


def _made(tree: Tree, name: str) -> Path:
    file = tree.build / "out" / name
    if not file.is_file():
        raise DeploykitError(
            f"the build ended well and made no {name}", where=str(tree.log), fix="deploykit build --force"
        )
    return file


def _check(found: Build) -> Verdict:
    return judge(found.module, found.target, sources.abi_version(sources.source_dir()))
