"""The five workloads of `--suite gpu`: prompts of token ids, and how many tokens each is to be answered with."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deploykit.errors import ConfigError

SEED = 7
FIRST_ID, END_ID = 100, 48000  # ids are drawn from FIRST_ID up to END_ID - 1
LENGTHS_FILE = Path(__file__).with_name("sharegpt_lengths.csv")
MAX_ROWS = 256  # sequences that run at once
NAMES = ("decode_bs1", "decode_bs16", "decode_bs64", "prefill_4k", "sharegpt_c256")
UNITS = {"prefill_4k": "input tok/s", "sharegpt_c256": "requests/s"}
UNIT = "output tok/s"  # of the others
REPEATS = {"sharegpt_c256": 1}
REPEAT = 3


class IdRequest(NamedTuple):
    """Token ids in, exactly `output_len` tokens out."""

    prompt: list[int]
    output_len: int


GpuWorkload = list[IdRequest]


def sharegpt_lengths() -> list[tuple[int, int]]:
    """1,000 (prompt, output) lengths in tokens."""
    with LENGTHS_FILE.open(newline="") as f:
        return [(int(row["prompt_len"]), int(row["output_len"])) for row in csv.DictReader(f)]


def make_workloads() -> dict[str, GpuWorkload]:
    """All five from one generator, in the order of NAMES: the same ids in every run and on every machine."""
    rng = random.Random(SEED)  # noqa: S311 - prompts, no secrets
    shapes = {
        "decode_bs1": [(128, 512)],
        "decode_bs16": [(128, 256)] * 16,
        "decode_bs64": [(128, 256)] * 64,
        "prefill_4k": [(4096, 1)] * 8,
        "sharegpt_c256": sharegpt_lengths(),
    }
    return {name: [IdRequest(_ids(rng, p), o) for p, o in shape] for name, shape in shapes.items()}


def _ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(FIRST_ID, END_ID) for _ in range(count)]


def chosen(only: Sequence[str]) -> dict[str, GpuWorkload]:
    """The workloads of those names, all where there is none. Raises ConfigError for an unknown one."""
    if unknown := sorted(set(only) - set(NAMES)):
        raise ConfigError(
            f"there is no workload {unknown[0]!r}", fix=f"--only with one of {', '.join(NAMES)}"
        )
    made = make_workloads()
    return {name: made[name] for name in NAMES if not only or name in only}


def repeats_of(name: str, asked: int | None) -> int:
    """How many runs a figure is the median of."""
    return asked or REPEATS.get(name, REPEAT)


def amount_of(name: str, workload: GpuWorkload) -> int:
    """What is counted a second, in the workload's unit."""
    if UNITS.get(name) == "requests/s":
        return len(workload)
    if UNITS.get(name) == "input tok/s":
        return sum(len(request.prompt) for request in workload)
    return sum(request.output_len for request in workload)
