"""Checks of installed packages."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys

from deploykit.doctor.check import Context, Finding, ok, skip
from deploykit.hardware.toolchain import package_version

_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?P<range>[^;\[]*)")
_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*\(?==(?P<version>[0-9][^\s;,)*]*)\)?\s*(?:;|$)"
)
_MARKER = re.compile(r"(\w+)\s*(==|!=)\s*['\"]([^'\"]*)['\"]")
_CLAUSE = re.compile(r"(>=|<=|==|!=|~=|>|<)\s*([0-9][0-9.]*)")


def required_range(package: str, requirements: list[str]) -> str:
    """The version range that `requirements` (metadata lines) ask of `package`, such as ">=2.11"; "" for any."""
    for line in requirements:
        match = _REQUIREMENT.match(line)
        if match and match["name"].lower() == package:
            return match["range"].strip(" ()")
    return ""


def within(version: str, wanted: str) -> bool:
    """Whether `version` satisfies >=, <=, >, < and == clauses; other clauses don't occur in our requirements."""
    have = _numbers(version)
    for operator, text in _CLAUSE.findall(wanted):
        bound = _numbers(text)
        width = max(len(have), len(bound))
        a, b = have + (0,) * (width - len(have)), bound + (0,) * (width - len(bound))
        holds = {">=": a >= b, "<=": a <= b, ">": a > b, "<": a < b, "==": a == b}.get(operator, True)
        if not holds:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("deploykit") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _package(name: str, version: str | None, note: str = "") -> Finding:
    wanted = required_range(name, _requirements())
    if version is None:
        fix = f"pip install '{name}{wanted}'"
        return Finding("fail", "not installed", "the pytorch engine can't run without it", fix)
    found = f"{version}{note}" + (f" (supported: {wanted})" if wanted else "")
    if not within(version, wanted):
        fix = f"pip install '{name}{wanted}'"
        return Finding("fail", found, "this version is outside the supported range", fix)
    return ok(found)


def torch(context: Context) -> Finding:
    build = f", built for CUDA {context.machine.torch_cuda}" if context.machine.torch_cuda else ", CPU build"
    return _package("torch", context.machine.torch, build)


def transformers(context: Context) -> Finding:
    return _package("transformers", context.machine.transformers)


def pins(context: Context) -> Finding:
    """The packages that torch names exact versions of (Triton, NVIDIA's libraries) are the ones installed."""
    try:
        lines = importlib.metadata.requires("torch") or []
    except importlib.metadata.PackageNotFoundError:
        return skip("no torch")
    wrong, right = [], 0
    for line in lines:
        match = _PIN.match(line)
        if match is None or not _applies(line.partition(";")[2]):
            continue
        have = package_version(match["name"])
        if have == match["version"]:
            right += 1
        else:
            wrong.append((match["name"], match["version"], have))
    if not wrong:
        return ok(
            f"{right} packages at the versions that torch asks for"
            if right
            else "torch asks for no exact versions"
        )
    found = ", ".join(f"{name} {have or 'absent'} (torch asks for {need})" for name, need, have in wrong)
    why = "torch was built with those versions: kernels fail to compile or to load with others"
    return Finding(
        "warn", found, why, "pip install " + " ".join(f"{name}=={need}" for name, need, _ in wrong)
    )


def _applies(marker: str) -> bool:
    """Whether a requirement's marker holds here; the forms are those of torch's own metadata."""
    if "extra" in marker:
        return False
    for name, operator, value in _MARKER.findall(marker):
        have = {
            "platform_system": platform.system(),
            "platform_machine": platform.machine(),
            "sys_platform": sys.platform,
        }
        if name in have and (have[name] == value) != (operator == "=="):
            return False
    return True
