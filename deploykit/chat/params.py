"""Sampling parameters that a person may set: their types, ranges and meaning, in one table."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploykit.errors import ConfigError

MAX_STOP = 16


@dataclass(frozen=True)
class Param:
    name: str
    kind: type
    allowed: str  # the range, in words
    accepts: Callable[[Any], bool]
    help: str


def _stops(value: Any) -> bool:
    return len(value) <= MAX_STOP and all(isinstance(item, str) and item for item in value)


PARAMS: dict[str, Param] = {
    p.name: p
    for p in (
        Param(
            "temperature",
            float,
            "0 to 2",
            lambda v: 0 <= v <= 2,
            "randomness; 0 = always the likeliest token",
        ),
        Param("top_p", float, "above 0, up to 1", lambda v: 0 < v <= 1, "likeliest tokens that sum to this"),
        Param("top_k", int, "0 or more", lambda v: 0 <= v < 1 << 31, "this many likeliest tokens; 0 = off"),
        Param("min_p", float, "0 to 1", lambda v: 0 <= v <= 1, "drop tokens below this share of the best"),
        Param("max_tokens", int, "1 or more", lambda v: 1 <= v < 1 << 31, "most tokens of an answer"),
        Param("seed", int, "0 to 2^64 - 1", lambda v: 0 <= v < 1 << 64, "same seed, same answer"),
        Param(
            "stop",
            list,
            f"a text, or a JSON list of up to {MAX_STOP}",
            _stops,
            "end the answer before this text",
        ),
        Param("frequency_penalty", float, "-2 to 2", lambda v: -2 <= v <= 2, "against repeating, by count"),
        Param("presence_penalty", float, "-2 to 2", lambda v: -2 <= v <= 2, "against repeating at all"),
        Param(
            "repetition_penalty", float, "above 0, up to 2", lambda v: 0 < v <= 2, "divides what stood before"
        ),
    )
}


def parse_assignment(text: str) -> tuple[str, Any]:
    """`k=v` as (name, typed value); the value `default` gives None, which means "leave it to the server".

    Raises ConfigError that names the range, or the parameter that was probably meant.
    """
    name, separator, raw = text.partition("=")
    name, raw = name.strip(), raw.strip()
    param = PARAMS.get(name)
    if param is None:
        near = difflib.get_close_matches(name, PARAMS, n=1)
        fix = f"did you mean `{near[0]}`?" if near else f"parameters: {', '.join(PARAMS)}"
        raise ConfigError(f"unknown parameter `{name}`", fix=fix)
    if not separator or not raw:
        raise ConfigError(
            f"`{name}` needs a value", fix=f"{name}=VALUE, {param.allowed}; {name}=default unsets it"
        )
    if raw in ("default", "null", "none"):
        return name, None
    value = _typed(param, raw)
    if value is None or not param.accepts(value):
        raise ConfigError(f"`{name}` can't be {raw!r}", why=f"it must be {param.allowed}")
    return name, value


def _typed(param: Param, raw: str) -> Any:
    """The value in the parameter's type, or None."""
    try:
        if param.kind is int:
            return int(raw)
        if param.kind is float:
            number = float(raw)
            return number if math.isfinite(number) else None
        if raw[0] in '["':
            value = json.loads(raw)
            return value if isinstance(value, list) else [value]
        return [raw]
    except (ValueError, RecursionError):
        return None


def describe(values: dict[str, Any]) -> str:
    """The table that `/params` prints."""
    rows = [
        (p.name, json.dumps(values[p.name]) if p.name in values else "default", p) for p in PARAMS.values()
    ]
    width = max(len(value) for _, value, _ in rows)
    return "\n".join(f"  {name:<19} {value:<{width}}  {p.help} ({p.allowed})" for name, value, p in rows)
