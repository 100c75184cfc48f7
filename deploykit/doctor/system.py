"""Checks of Python, the operating system, and of what it runs in."""

from __future__ import annotations

import locale
import platform
import sys
from pathlib import Path

from deploykit.doctor.check import Context, Finding, ok, skip
from deploykit.hardware.cgroup import cpu_quota, memory_limits
from deploykit.hardware.kernel import is_wsl, virtual_machine
from deploykit.plan.text import format_bytes

OLDEST_PYTHON = (3, 11)
NEWEST_TESTED_PYTHON = (3, 13)
OLDEST_GLIBC = (2, 28)  # torch's wheels are built for it


def python(context: Context) -> Finding:
    version = sys.version_info[:2]
    found = f"{platform.python_version()} ({sys.executable})"
    if version < OLDEST_PYTHON:
        return Finding(
            "fail", found, "deploykit needs Python 3.11 or newer", "install Python 3.11, 3.12 or 3.13"
        )
    if version > NEWEST_TESTED_PYTHON:
        fix = "use Python 3.11, 3.12 or 3.13 if something breaks"
        return Finding("warn", found, "deploykit is tested up to Python 3.13", fix)
    return ok(found)


def operating_system(context: Context) -> Finding:
    system = context.machine.system
    if system == "Windows":
        return Finding(
            "fail",
            f"Windows {platform.release()}",
            "supervised processes, Unix sockets and both engines need Linux; WSL2 is Linux on Windows, GPU included",
            "wsl --install -d Ubuntu-24.04, then install deploykit inside it",
        )
    if system != "Linux":
        found = f"{system} {platform.release()}"
        return Finding(
            "warn", found, "deploykit is tested on Linux alone", "run it on Linux or in a container"
        )
    libc, version = platform.libc_ver()
    found = f"{_distribution(context.root)}, kernel {platform.release()}, {libc or 'unknown libc'} {version}".strip()
    if libc != "glibc":
        why = "torch has no wheels for another C library than glibc"
        return Finding("fail", found, why, "use a distribution with glibc: Debian, Ubuntu, Fedora, …")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_GLIBC:
        return Finding(
            "fail", found, "torch's wheels need glibc 2.28", "use a newer distribution or container"
        )
    return ok(found)


def _distribution(root: Path) -> str:
    try:
        text = (root / "etc/os-release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "Linux"
    lines = dict(line.partition("=")[::2] for line in text.splitlines())
    return lines.get("PRETTY_NAME", "Linux").strip("\"'")


def utf8(context: Context) -> Finding:
    encodings = {sys.getfilesystemencoding(), locale.getpreferredencoding(False)}
    wrong = sorted(name for name in encodings if name.lower().replace("-", "") != "utf8")
    if wrong:
        why = "models answer in any language; text would be garbled or refused"
        return Finding("warn", ", ".join(wrong), why, "export LANG=C.UTF-8")
    return ok("UTF-8")


def container(context: Context) -> Finding:
    kind = _container(context)
    quota = cpu_quota(context.root)
    limits = memory_limits(context.root)
    parts = []
    if quota is not None:
        parts.append(f"{quota:g} CPUs")
    if limits:
        parts.append(f"{format_bytes(min(level.limit for level in limits))} of memory")
    where = f"in {kind}" if kind else "no container"
    found = f"{where}, limited to {' and '.join(parts)}" if parts else f"{where}, no CPU or memory limit"
    if quota is not None and quota < 1:
        why = "less than one CPU: every step stands still for part of each period"
        return Finding("warn", found, why, "give the container at least one CPU")
    return ok(found)


def _container(context: Context) -> str | None:
    if (context.root / ".dockerenv").exists():
        return "Docker"
    if (context.root / "run/.containerenv").exists():
        return "Podman"
    if "KUBERNETES_SERVICE_HOST" in context.environ:
        return "Kubernetes"
    return context.environ.get("container")


def virtual(context: Context) -> Finding:
    """WSL, a virtual machine, or hardware of its own."""
    if context.machine.system != "Linux":
        return skip("not asked on this system")
    if is_wsl(context.root):
        release = platform.release()
        if "wsl2" not in release.lower() and not (context.root / "dev/dxg").exists():
            why = "WSL1 has no Linux kernel: no GPU, slow files, system calls missing"
            return Finding("warn", "WSL1", why, "wsl --set-version Ubuntu 2 (in PowerShell)")
        if str(context.cache).startswith("/mnt/"):
            why = "weights under /mnt/ are read over the Windows file system, several times slower"
            return Finding("warn", f"WSL2, models in {context.cache}", why, "unset DEPLOYKIT_CACHE")
        return ok("WSL2")
    kind = virtual_machine(context.root)
    return ok(f"a virtual machine ({kind})" if kind else "hardware of its own")


def foreign_variables(context: Context) -> Finding:
    """Environment variables of other servers, which somebody may take to have an effect here."""
    from deploykit.recipe.foreign.environment import environment

    found = environment(context.environ)
    if not found:
        return ok("none is set")
    names = [variable.name for variable in found]
    why = "; ".join(variable.text for variable in found)
    return Finding("warn", f"{', '.join(names)}: without effect here", why, f"unset {' '.join(names)}")
