"""Writes the description of a checkpoint that is at hand (`described.py` reads it), from its headers alone.

python -m deploykit.checkpoint.describe FOLDER|FILE.gguf --model owner/name [--write FILE.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deploykit.checkpoint.described import GGUF_TEMPLATE
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.checkpoint.files import exists, read_json
from deploykit.fsutil import write_atomic

_INDEX = re.compile(r"\d{1,5}")
Parts = tuple[tuple[str, ...], ...]  # the choices at each component of a name
# Of config.json's keys, those that say nothing about the weights or about what computes them.
_DROPPED = frozenset({"_name_or_path", "transformers_version", "auto_map", "torch_dtype", "dtype"})


def describe(facts: Facts, model: str) -> dict[str, Any]:
    """The description of `facts` as `read_described` takes it: the same tensors, under as few patterns as they give."""
    data: dict[str, Any] = {"model": model}
    if facts.format == "gguf":
        data["format"] = "gguf"
    data["config"] = _config(facts)
    if facts.generation_config:
        data["generation_config"] = facts.generation_config
    data["chat_template"] = _template_file(facts)
    data["tensors"] = compact(facts.tensors)
    return data


def _config(facts: Facts) -> dict[str, Any]:
    return {key: value for key, value in facts.config.items() if key not in _DROPPED}


def _template_file(facts: Facts) -> str | None:
    if facts.format == "gguf":
        return GGUF_TEMPLATE if facts.chat_template is not None else None
    folder = Path(facts.path)
    if exists(folder, "chat_template.jinja"):
        return "chat_template.jinja"
    for name in ("chat_template.json", "tokenizer_config.json"):
        if exists(folder, name) and read_json(folder / name, 64 << 20).get("chat_template") is not None:
            return name
    return None


# ---------------------------------------------------------------- names to patterns


def compact(tensors: Iterable[TensorInfo]) -> dict[str, list[Any]]:
    """Patterns that stand for exactly these tensors, and what each is: `[shape, dtype]` or `[shape, dtype, layout]`."""
    alike: dict[tuple[Any, ...], list[tuple[str, ...]]] = defaultdict(list)
    for tensor in tensors:
        alike[tensor.shape, tensor.dtype, tensor.layout].append(tuple(tensor.name.split(".")))
    found: dict[str, list[Any]] = {}
    for (shape, dtype, layout), names in alike.items():
        entry = [list(shape), dtype, layout] if layout else [list(shape), dtype]
        for parts in _patterns(names):
            found[".".join(map(_braces, parts))] = entry
    return found


def _patterns(names: Sequence[tuple[str, ...]]) -> list[Parts]:
    """Products of choices that cover the names, each once: first over numbers, then over words."""
    rows: list[Parts] = [tuple((part,) for part in name) for name in names]
    width = max(map(len, names))
    for numbers in (True, False):
        for place in range(width - 1, -1, -1):
            rows = _merged(rows, place, numbers)
    return rows


def _merged(rows: list[Parts], place: int, numbers: bool) -> list[Parts]:
    """Rows that differ at one place alone, as one."""
    groups: dict[Any, tuple[str, ...]] = {}
    for row in rows:
        if place >= len(row) or _is_number(row[place]) != numbers:
            groups[row] = ()
            continue
        key = (row[:place], row[place + 1 :])
        groups[key] = groups.get(key, ()) + row[place]
    merged = []
    for key, choices in groups.items():
        merged.append((*key[0], choices, *key[1]) if choices else key)
    return merged


def _is_number(choices: tuple[str, ...]) -> bool:
    return all(_INDEX.fullmatch(choice) for choice in choices)


def _braces(choices: tuple[str, ...]) -> str:
    if len(choices) == 1:
        return choices[0]
    if not _is_number(choices):
        return "{" + ",".join(choices) + "}"
    numbers = sorted(int(choice) for choice in choices)
    runs = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        ends = [number for _, number in run]
        runs.append(str(ends[0]) if len(ends) == 1 else f"{ends[0]}-{ends[-1]}")
    return "{" + ",".join(runs) + "}"


def to_json(data: dict[str, Any]) -> str:
    """JSON with a line for each key and each pattern, so that a change is a line of a diff."""
    lines = []
    for key, value in data.items():
        if isinstance(value, dict) and value:
            inner = ",\n".join(
                f"    {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items()
            )
            lines.append(f"  {json.dumps(key)}: {{\n{inner}\n  }}")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploykit.checkpoint.describe", description=__doc__)
    parser.add_argument("checkpoint", help="a folder in Hugging Face's layout, or a .gguf file")
    parser.add_argument("--model", required=True, help="what it is called: owner/name")
    parser.add_argument("--write", metavar="FILE", help="where to write it; without it: standard output")
    given = parser.parse_args(arguments)
    from deploykit.checkpoint.reader import read_facts

    text = to_json(describe(read_facts(given.checkpoint), given.model))
    if given.write:
        write_atomic(Path(given.write), text.encode())
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
