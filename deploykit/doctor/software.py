"""Checks of installed packages and the hub's settings."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from deploykit.doctor.check import Context, Finding, ok

_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?P<range>[^;\[]*)")
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


def hub(context: Context) -> Finding:
    """How Hugging Face would be asked; a token's presence is told, never the token."""
    env = context.environ
    offline = env.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    endpoint = env.get("HF_ENDPOINT", "https://huggingface.co")
    home = Path(
        env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"
    )
    token_file = Path(env.get("HF_TOKEN_PATH") or home / "token").expanduser()
    token = "HF_TOKEN" if env.get("HF_TOKEN") else str(token_file) if token_file.is_file() else None
    parts = [
        "offline (HF_HUB_OFFLINE)" if offline else endpoint,
        f"token in {token}" if token else "no token (public models need none)",
    ]
    if offline:
        why = "models that are not on the disk can't be fetched from Hugging Face"
        return Finding("warn", ", ".join(parts), why, "unset HF_HUB_OFFLINE")
    return ok(", ".join(parts))
