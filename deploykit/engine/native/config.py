"""Typed access to a config.json: a wrong value is an error that names its key, never a surprise further on."""

from __future__ import annotations

import math
from typing import Any

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.facts import Facts


class Config:
    """`values` are the config's; a key that is absent or null takes the default that is given."""

    def __init__(self, facts: Facts, values: dict[str, Any] | None = None, prefix: str = "") -> None:
        self.facts = facts
        self.values = facts.config if values is None else values
        self._prefix = prefix

    def bad(self, key: str, need: str) -> CheckpointError:
        value = printable(repr(self.values.get(key)))
        return CheckpointError(
            f"config.json: {self._prefix}{key} is missing or wrong",
            file=self.facts.path,
            why=f"{need} is needed, not {value}",
        )

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.bad(key, "true or false")
        return value

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = 2**31 - 1) -> int:
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise self.bad(key, f"an integer in {low}..{high}")
        return value

    def number(self, key: str, default: float | None = None, *, positive: bool = True) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.bad(key, "a number")
        if abs(value) > 1e30 or (positive and not value > 0):
            raise self.bad(key, "a positive number")
        return float(value)

    def optional(self, key: str) -> float | None:
        return self.number(key) if key in self else None

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.bad(key, "text")
        return value

    def items(self, key: str) -> list[Any] | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.bad(key, "a list")
        return value

    def section(self, key: str) -> Config | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.bad(key, "an object")
        return None if value is None else Config(self.facts, value, f"{self._prefix}{key}.")
