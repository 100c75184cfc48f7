"""Checks of the native engine: what compiles it, and whether its library is there and loads."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from deploykit.build import CPU, Build, Target, cuda_target, locate, store, tools
from deploykit.build import cuda as toolkit
from deploykit.build.check import judge
from deploykit.build.problem import compiler_problem, package_problem
from deploykit.build.problem import problem as build_problem
from deploykit.build.sources import abi_version, source_dir
from deploykit.doctor import child
from deploykit.doctor.check import Context, Finding, ok, skip
from deploykit.errors import DeploykitError

_WITHOUT = "the native engine can't be compiled; models run on the slower pytorch engine"
_CHILD_LIMIT_S = 8.0
_SELFTEST = Path(__file__).with_name("_selftest.py")
_SELFTEST_LIMIT_S = 20.0


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
        return skip("no GPU")
    return _library(context, cuda_target(context.machine.gpus[0].compute_capability))


class SelfTest(msgspec.Struct):
    """What the child computed: the largest difference to numpy's log probabilities, in words."""

    error: str = ""
    difference: str = ""
    good: bool = False
    dtype: str = ""
    info: dict[str, str] = {}


def cpu_self_test(context: Context) -> Finding:
    """64 x 64 numbers multiplied on the CPU, against numpy."""
    return _self_test(CPU, "cpu", 0)


def cuda_self_test(context: Context) -> Finding:
    """The same on every GPU that has a library."""
    if not context.machine.gpus:
        return skip("no GPU")
    told = [
        (gpu.index, _self_test(cuda_target(gpu.compute_capability), "cuda", gpu.index))
        for gpu in context.machine.gpus
    ]
    worst = min(told, key=lambda item: ("fail", "warn", "skip", "ok").index(item[1].status))[1]
    if len(told) == 1 or worst.status == "skip":
        return worst
    found = "; ".join(f"GPU {index}: {finding.found}" for index, finding in told)
    return Finding(worst.status, found, worst.why, worst.fix)


def _self_test(target: Target, device: str, index: int) -> Finding:
    try:
        found = locate(target)
    except DeploykitError as error:
        return skip("no library to test", error.what)
    if found is None:
        return skip("the library is not built")
    command = [sys.executable, "-P", str(_SELFTEST), str(found.module), device, str(index)]
    answer = child.ask(command, limit_s=_SELFTEST_LIMIT_S - 1)
    fix = (
        f"{_build_command(target)} --force; if it stays so, serve with engine.backend: pytorch and report it"
    )
    if answer.problem:
        return Finding("fail", "it crashed", f"the native engine can't be used: {answer.problem}", fix)
    said = msgspec.json.decode(answer.output, type=SelfTest)
    if said.error:
        return Finding("fail", "it could not be run", f"the native engine can't be used: {said.error}", fix)
    how = said.info.get("isa") or said.info.get("kernels") or device
    text = (
        f"64 x 64 product in {said.dtype} on {how}, largest difference to numpy {float(said.difference):.1e}"
    )
    if not said.good:
        return Finding("fail", text, "the native engine computes wrong numbers here", fix)
    return ok(text)


def _build_command(target: Target) -> str:
    return "deploykit build" + (f" --cuda {target.arch}" if target.arch else "")


def _library(context: Context, target: Target) -> Finding:
    command = _build_command(target)
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
    devices = " and ".join(device for device in answer.devices if device != "null")  # a test's device
    arch = f" (sm_{target.arch})" if target.arch else ""
    return ok(f"{_origin(found)}, loads; built for {devices}{arch}; {isas}")


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
    if target == CPU and context.machine.gpus:
        return skip("not built: models run on the GPU, whose library has the CPU's kernels too")
    why = "the first `up` that picks the native engine compiles it first, which takes a minute or more"
    return Finding("warn", "not built yet", why, command)


def _split(problem: str, found: str, why: str) -> Finding:
    """A problem's text is "what is wrong: what to do"."""
    what, _, fix = problem.partition(": ")
    return Finding("warn", found, f"{what}: {why}", fix)
