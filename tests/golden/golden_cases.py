"""Reads sampling.json for the tests of every implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from deploykit.engine.types import SamplingParams

GOLDEN = Path(__file__).with_name("sampling.json")
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text())["cases"]


def golden_logits(case: dict[str, Any]) -> np.ndarray:
    """float32[vocab] by the formula of docs/sampling.md."""
    spec = case["logits"]
    i = np.arange(spec["vocab"], dtype=np.uint64)
    h = (((i + np.uint64(1)) * np.uint64(spec["a"] * 2654435761)) % np.uint64(2**32)) >> np.uint64(16)
    x = (((h.astype(np.int64) % spec["m"]) - spec["m"] // 2) / spec["d"]).astype(np.float32)
    if spec["ties"]:
        x[:: spec["ties"]] = x[0]
    for index, value in case["patch"].items():
        x[int(index)] = np.float32(value)
    return x


def golden_params(case: dict[str, Any]) -> SamplingParams:
    return msgspec.convert(case["params"], SamplingParams, strict=False)


def golden_mask(case: dict[str, Any]) -> np.ndarray | None:
    return None if case["mask"] is None else np.array(case["mask"], dtype=np.uint32)


def golden_kept(case: dict[str, Any]) -> list[int]:
    """The ids that may be drawn."""
    return [i for first, last in case["expected"]["kept"] for i in range(first, last + 1)]
