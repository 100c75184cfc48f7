"""Conversations of a ShareGPT file as requests: the first turn is the prompt, the second gives the answer's length."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploykit.bench.gpu_workloads import IdRequest
from deploykit.errors import ConfigError

SEED = 0
# As the serving benchmarks of vLLM and LMDeploy filter: tokens.
MIN_TOKENS = 4  # of a prompt, and of an answer
MAX_PROMPT = 1024
MAX_TOTAL = 2048


def read_dialogs(path: Path) -> list[tuple[str, str]]:
    """The first two turns of every conversation that has two, in the file's order. Raises ConfigError."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the dataset {path} can't be read", why=error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the dataset {path} isn't JSON", why=str(error)) from None
    if not isinstance(data, list):
        raise _bad(path, "the file isn't a list")
    dialogs = []
    for i, item in enumerate(data):
        turns = item.get("conversations", item.get("conversation")) if isinstance(item, dict) else None
        if not isinstance(turns, list):
            raise _bad(path, f"item {i} has no list `conversations`")
        if len(turns) >= 2:
            dialogs.append((_text(path, i, turns[0]), _text(path, i, turns[1])))
    return dialogs


def sample(
    dialogs: Sequence[tuple[str, str]], count: int, encode: Callable[[str], list[int]]
) -> list[IdRequest]:
    """At most `count` requests: shuffled, always in the same way, and without those too short or too long."""
    order = list(dialogs)
    random.Random(SEED).shuffle(order)  # noqa: S311 - an order, no secret
    found: list[IdRequest] = []
    for prompt, answer in order:
        if len(found) == count:
            break
        ids = encode(prompt)
        if fits(len(ids), output_len := len(encode(answer))):
            found.append(IdRequest(ids, output_len))
    return found


def fits(prompt_len: int, output_len: int) -> bool:
    """Whether a conversation of so many tokens is asked."""
    if min(prompt_len, output_len) < MIN_TOKENS:
        return False
    return prompt_len <= MAX_PROMPT and prompt_len + output_len <= MAX_TOTAL


def _text(path: Path, item: int, turn: Any) -> str:
    value = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(value, str):
        raise _bad(path, f"a turn of item {item} has no text `value`")
    return value


def _bad(path: Path, why: str) -> ConfigError:
    fix = '[{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}, …]'
    return ConfigError(f"{path} isn't a dataset in ShareGPT's format", why=why, fix=fix)
