"""A checkpoint that is described in a file: its config.json and the list of its tensors, without its weights.

A plan needs no more than that, so that a recipe can be judged before anything of its model is there. The format is
that of docs/gallery.md; `describe.py` writes it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from deploykit.checkpoint.config import without_code
from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.checkpoint.files import read_json
from deploykit.checkpoint.ggml_types import BY_NAME, READABLE
from deploykit.checkpoint.gguf_families import LAYOUTS
from deploykit.checkpoint.reader import check_format, facts_of
from deploykit.checkpoint.safetensors import DTYPES

MAX_BYTES = 1 << 20
MAX_TENSORS = 1 << 18
MAX_DIMS = 16
MAX_SIZE = 1 << 40
MAX_INDEX = 99_999
FORMATS = ("safetensors", "gguf")
GGUF_TEMPLATE = "tokenizer.chat_template"  # the key of a GGUF's metadata
TEMPLATES = ("tokenizer_config.json", "chat_template.jinja", "chat_template.json", GGUF_TEMPLATE)
_KEYS = ("model", "revision", "note", "format", "config", "generation_config", "chat_template", "tensors")
_REQUIRED = ("model", "config", "tensors", "chat_template")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")
_WORD = re.compile(r"[A-Za-z0-9_.]+")
_NAME = re.compile(r"[A-Za-z0-9_.{},-]+")
# name -> (elements, bytes) of a block
_SIZES: dict[str, tuple[int, int]] = {name: (8, bits) for name, bits in DTYPES.values()} | {
    ours: (BY_NAME[ggml].block, BY_NAME[ggml].nbytes)
    for ggml, ours in READABLE.items()
    if BY_NAME[ggml].block > 1
}
_GGUF_DTYPES = frozenset(ours for ggml, ours in READABLE.items() if BY_NAME[ggml].block > 1)


def read_described(path: Path | str, format: str = "auto") -> Facts:
    """The facts of a checkpoint that the JSON file at `path` describes. Nothing of them can be loaded.

    `format` is a recipe's `model.format`, as `read_facts` takes it.
    Raises CheckpointError that names the file, the key or the tensor, and what is wrong with it.
    """
    path = Path(path).absolute()
    data = read_json(path, MAX_BYTES)
    _check_keys(data, path)
    tensors = tuple(_tensors(data["tensors"], path))
    config: dict[str, Any] = without_code(data["config"])
    generation: dict[str, Any] = without_code(data.get("generation_config") or {})
    facts = facts_of(path, path, config, path, generation, tensors)
    if data.get("format") == "gguf":
        packed = any(t.dtype in _GGUF_DTYPES for t in tensors)
        facts = msgspec.structs.replace(facts, format="gguf", quant_method="gguf" if packed else None)
    check_format(facts, format)
    return msgspec.structs.replace(facts, origin="described", chat_template_from=data["chat_template"])


def _check_keys(data: dict[str, Any], path: Path) -> None:
    def bad(key: str, need: str) -> CheckpointError:
        value = printable(repr(data.get(key)))
        return CheckpointError(
            f"the description's `{key}` is wrong", file=path, why=f"{need} is needed, not {value}"
        )

    for key in data:
        if key not in _KEYS:
            known = ", ".join(_KEYS)
            raise CheckpointError(
                f"the description has an unknown key {printable(repr(key))}", file=path, why=f"known: {known}"
            )
    for key in _REQUIRED:
        if key not in data:
            fix = "docs/gallery.md tells the format"
            raise CheckpointError(f"the description has no `{key}`", file=path, fix=fix)
    for key in ("model", "revision", "note"):
        if key in data and (not isinstance(data[key], str) or not data[key]):
            raise bad(key, "a text")
    for key in ("config", "generation_config", "tensors"):
        if key in data and not isinstance(data[key], dict):
            raise bad(key, "an object")
    if not data["tensors"]:
        raise bad("tensors", "at least one tensor")
    if data.get("format", "safetensors") not in FORMATS:
        raise bad("format", " or ".join(FORMATS))
    if data["chat_template"] is not None and data["chat_template"] not in TEMPLATES:
        raise bad("chat_template", f"null or one of {', '.join(TEMPLATES)}")


# ---------------------------------------------------------------- tensors


def _tensors(table: dict[str, Any], path: Path) -> Iterator[TensorInfo]:
    seen: set[str] = set()
    for pattern, entry in table.items():
        shape, dtype, layout, nbytes = _entry(pattern, entry, path)
        for name in _expand(pattern, path):
            if name in seen:
                raise _wrong(path, pattern, f"{name} is described twice")
            seen.add(name)
            if len(seen) > MAX_TENSORS:
                raise _wrong(path, pattern, f"there are more than {MAX_TENSORS} tensors")
            yield TensorInfo(name, shape, dtype, nbytes, "", 0, layout)


def _entry(pattern: str, entry: Any, path: Path) -> tuple[tuple[int, ...], str, str, int]:
    """(shape, dtype, layout, bytes) of `[shape, dtype]` or `[shape, dtype, layout]`."""
    if not isinstance(entry, list) or len(entry) not in (2, 3):
        raise _wrong(path, pattern, "a tensor is [shape, dtype] or [shape, dtype, layout]")
    shape, dtype, layout = entry[0], entry[1], entry[2] if len(entry) == 3 else ""
    if not isinstance(shape, list) or len(shape) > MAX_DIMS:
        raise _wrong(path, pattern, f"a shape is a list of at most {MAX_DIMS} sizes")
    if not all(type(n) is int and 0 <= n <= MAX_SIZE for n in shape):
        raise _wrong(path, pattern, f"a size is an integer from 0 on, not {printable(repr(shape))}")
    if not isinstance(dtype, str) or dtype not in _SIZES:
        known = ", ".join(_SIZES)
        raise _wrong(path, pattern, f"unknown dtype {printable(repr(dtype))}; known: {known}")
    if not isinstance(layout, str) or layout not in LAYOUTS:
        known = ", ".join(filter(None, LAYOUTS))
        raise _wrong(path, pattern, f"unknown layout {printable(repr(layout))}; known: {known}")
    block, size = _SIZES[dtype]
    elements = 1
    for n in shape:
        elements *= n
    if elements > MAX_SIZE or (elements % block and dtype in _GGUF_DTYPES) or elements * size % block:
        raise _wrong(path, pattern, f"{shape} can't be stored as {dtype}")
    return tuple(shape), dtype, layout, elements * size // block


def _expand(pattern: str, path: Path) -> Iterator[str]:
    """The names that a pattern stands for: `{0-31}` counts, `{q_proj,k_proj}` lists, and both may be mixed."""
    pieces = _BRACES.split(pattern)  # text, braces, text, …
    if not _NAME.fullmatch(pattern) or any("{" in p or "}" in p or "," in p for p in pieces[::2]):
        raise _wrong(
            path, pattern, "a name is letters, digits, `_`, `.`, and braces such as {0-31} or {w1,w3}"
        )
    choices = [[text] if i % 2 == 0 else list(_items(text, pattern, path)) for i, text in enumerate(pieces)]
    count = 1
    for each in choices:
        count *= len(each)
    if count > MAX_TENSORS:
        raise _wrong(path, pattern, f"it stands for {count} tensors; the limit is {MAX_TENSORS}")
    return ("".join(parts) for parts in itertools.product(*choices))


def _items(text: str, pattern: str, path: Path) -> Iterator[str]:
    for item in text.split(","):
        if match := _RANGE.fullmatch(item):
            first, last = int(match[1]), int(match[2])
            if first > last:
                raise _wrong(path, pattern, f"{{{item}}} counts backwards")
            yield from map(str, range(first, last + 1))
        elif _WORD.fullmatch(item):
            yield item
        else:
            raise _wrong(path, pattern, f"{{{printable(text)}}} is neither a range nor a list of words")


def _wrong(path: Path, pattern: str, why: str) -> CheckpointError:
    return CheckpointError("the description of a tensor is wrong", file=path, tensor=pattern, why=why)
