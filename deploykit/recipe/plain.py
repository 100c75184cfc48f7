"""What the schema means by a size, a duration, a name and an origin, without the library that it is written with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_SIZE_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
SIZE_PATTERN = r"^([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(B|KB|MB|GB|KiB|MiB|GiB)?$"
SIZE_WORDS = "a size such as 32MiB or 1GB, or a number of bytes, at most 1024GiB"
_DURATION_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION_PATTERN = r"^([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(ms|s|m|h)?$"
DURATION_WORDS = "a duration such as 30s, 10m or 500ms, or a number of seconds, at most 24h"
ENVIRONMENT_PREFIX = "DEPLOYKIT_SET__"
MAX_SIZE = 1 << 40
MAX_DURATION = 86400


def parse_size(value: Any) -> Any:
    """`32MiB` -> bytes; a bare integer is bytes."""
    if isinstance(value, str):
        match = re.fullmatch(SIZE_PATTERN, value)
        if not match:
            raise ValueError(f"must be {SIZE_WORDS}")
        return int(float(match[1]) * _SIZE_UNITS[match[2] or "B"])
    return value


def parse_duration(value: Any) -> Any:
    """`30s`, `10m`, `500ms` -> seconds; a bare number is seconds."""
    if isinstance(value, str):
        match = re.fullmatch(DURATION_PATTERN, value)
        if not match:
            raise ValueError(f"must be {DURATION_WORDS}")
        return float(match[1]) * _DURATION_UNITS[match[2] or "s"]
    return value


def slug(text: str) -> str:
    """`My Model!` -> `my-model`: a text that `Name` accepts, or an empty one."""
    return re.sub(r"[^a-z0-9._-]+", "-", text[:200].lower()).strip("-._")[:63].rstrip("-._")


class OriginConflict(NamedTuple):
    """Keys of `model` that don't go together. `key` is the one to point at; None means the section."""

    key: str | None
    message: str


def origin_conflict(model: Mapping[str, Any]) -> OriginConflict | None:
    """Checks, on a mapping as written, that a model has one origin."""
    given = [key for key in model if key in ("id", "path", "sources") and model[key] is not None]
    if not given:
        return OriginConflict(None, "`model` needs one of `id`, `path` and `sources`")
    if len(given) > 1:
        names = " and ".join(f"`{key}`" for key in given)
        return OriginConflict(
            given[-1], f"`model` has {names}; give exactly one of `id`, `path` and `sources`"
        )
    if "revision" in model and given != ["id"]:
        return OriginConflict("revision", f"`model.revision` goes with `id`, and this model has `{given[0]}`")
    return None
