"""Checks of the native engine: what compiles it, and whether its library is there and loads."""

from __future__ import annotations

import time

from deploykit.build import CPU, Build, Target, cuda_target, locate, store, tools
from deploykit.build import cuda as toolkit
from deploykit.build.check import judge
from deploykit.build.problem import compiler_problem, cuda_problem, package_problem
from deploykit.build.problem import problem as build_problem
from deploykit.build.sources import abi_version, source_dir
from deploykit.doctor.check import Context, Finding, ok
from deploykit.errors import DeploykitError

_WITHOUT = "the native engine can't be compiled; models run on the slower pytorch engine"
_CHILD_LIMIT_S = 4.0


def compiler(context: Context) -> Finding:
    """The C++ compiler, and nvcc for information."""
    machine = context.machine
    found = []
    if tool := tools.compiler(machine.compiler) if machine.compiler else None:
        version = ".".join(map(str, tool.numbers))
        found.append(f"{tool.path} ({tools.compiler_kind(tool) or 'unknown'} {version})")
    if machine.nvcc:
        release = toolkit.release(machine.nvcc)
        found.append(f"{machine.nvcc} (CUDA {'.'.join(map(str, release)) if release else 'unknown'})")
    shown = ", ".join(found) or "no C++ compiler and no nvcc"
    if problem := compiler_problem(machine, root=context.root):
        return _split(problem, shown, _WITHOUT)
    return ok(shown)


def build_tools(context: Context) -> Finding:
    """CMake, Ninja, pybind11 and Python's headers."""
    cmake, ninja = tools.cmake(), tools.ninja()
    found = [
        f"{name} {'.'.join(map(str, tool.numbers))}"
        for name, tool in (("CMake", cmake), ("Ninja", ninja))
        if tool
    ]
    if tools.pybind11_folder():
        found.append(f"pybind11 {tools.pybind11_version()}")
    if problem := package_problem(context.machine, root=context.root):
        return _split(problem, ", ".join(found) or "none", _WITHOUT)
    return ok(", ".join(found))


def cpu_library(context: Context) -> Finding:
    """The library for the CPU."""
    return _library(context, CPU)


def cuda_library(context: Context) -> Finding:
    """The library for the first GPU."""
    if not context.machine.gpus:
        return Finding("skip", "no GPU")
    if problem := cuda_problem():
        return Finding("skip", f"not built, and can't be: {problem}")
    return _library(context, cuda_target(context.machine.gpus[0].compute_capability))


def _library(context: Context, target: Target) -> Finding:
    command = "deploykit build" + (f" --cuda {target.arch}" if target.arch else "")
    try:
        found = locate(target)
    except DeploykitError as error:
        return Finding("fail", error.what, error.why or "", error.fix or "")
    if found is None:
        return _absent(context, target, command)
    verdict = judge(found.module, target, abi_version(source_dir()), limit_s=_CHILD_LIMIT_S)
    if verdict.why:
        fix = f"{command} --force (`up` does it by itself when its plan picks the native engine)"
        return Finding("fail", f"{found.module} can't be used", verdict.why, fix)
    answer = verdict.answer
    isas = (
        f"{answer.isas[0]} is used (of {' '.join(answer.isas)})"
        if answer.isas
        else "no instruction set known"
    )
    return ok(f"{_origin(found)}, loads; built for {' and '.join(answer.devices)}; {isas}")


def _origin(found: Build) -> str:
    if found.origin == "prebuilt":
        return f"prebuilt in {found.folder}"
    manifest = store.read_manifest(found.folder)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.built)) if manifest else "once"
    return f"built {when} in {found.folder}"


def _absent(context: Context, target: Target, command: str) -> Finding:
    if problem := build_problem(context.machine, target, root=context.root):
        return Finding("skip", f"not built, and can't be: {problem.partition(':')[0]}")
    if changed := store.stale(target):
        why = f"{changed} changed since; the next `up` that picks the native engine compiles it first"
        return Finding("warn", "stale", why, command)
    why = "the first `up` that picks the native engine compiles it first, which takes a minute or more"
    return Finding("warn", "not built yet", why, command)


def _split(problem: str, found: str, why: str) -> Finding:
    """A problem's text is "what is wrong: what to do"."""
    what, _, fix = problem.partition(": ")
    return Finding("warn", found, f"{what}: {why}", fix)
