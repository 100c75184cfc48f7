"""Typed access to a GGUF's metadata: a missing or absurd value is an error that names its key."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from deploykit.checkpoint.errors import CheckpointError, printable

MAX_INT = 2**31 - 1


class Metadata:
    """`values` are the file's; keys are written in full (`llama.block_count`)."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self.values = values

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def bad(self, key: str, why: str) -> CheckpointError:
        return CheckpointError(f"metadata {key} is missing or wrong", file=self.path, why=why)

    def unsupported(self, key: str) -> CheckpointError:
        value = printable(repr(self.values.get(key)))
        fix = "use the model's checkpoint in safetensors"
        return CheckpointError(f"metadata {key} isn't supported", file=self.path, why=value, fix=fix)

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_INT) -> int:
        value = self.values.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.bad(key, f"an integer in {low}..{high} is needed, not {printable(repr(value))}")
        return value

    def optional_id(self, key: str, vocab_size: int) -> int | None:
        return self.integer(key, low=0, high=vocab_size - 1) if key in self.values else None

    def number(self, key: str, default: float | None = None, *, high: float = 3e38) -> float:
        """A positive float32 below `high`, as the shortest decimal that means the same (1e-05, not 9.99999974e-06)."""
        value: Any = self.values.get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or not 0 < value < high:
            need = "a positive number" if high > 1e38 else f"a number between 0 and {high:g}"
            raise self.bad(key, f"{need} is needed, not {printable(repr(value))}")
        short = float(f"{value:.7g}")
        same = struct.pack("<f", short) == struct.pack("<f", value)
        return short if same else float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if type(value) is not bool:
            raise self.bad(key, f"true or false is needed, not {printable(repr(value))}")
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self.values.get(key, default)
        if value is not None and not isinstance(value, str):
            raise self.bad(key, "text is needed")
        return value

    def strings(self, key: str) -> list[str]:
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not isinstance(value[0], str):
            raise self.bad(key, "a list of text is needed")
        return value
