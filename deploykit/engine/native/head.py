"""The output head in int8, for a recipe that asks for it: of what it can be made, what it takes and what it costs.

A float32 scale a row, the row's largest weight over 127, quants to the nearest: made while the weights are loaded
(native/core/int8_head.h). The embedding table of a tied model stays as it is, and the head is a copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from deploykit.checkpoint.facts import Facts
from deploykit.engine.native.describe import describe
from deploykit.engine.native.names import Weight, WeightFormat, manifest
from deploykit.engine.native.sizes import packed_bytes
from deploykit.plan.text import format_bytes
from deploykit.plan.types import MemoryItem

HEAD, TABLE = "head.weight", "embed.weight"
# What it does to the perplexity of SmolLM2-135M-Instruct, by device: the table of docs/native.md.
PERPLEXITY = {"cpu": 0.0022, "cuda": 0.0012}
_PLAIN = (WeightFormat.F32, WeightFormat.F16, WeightFormat.BF16)
_FOUR_BIT = (WeightFormat.AWQ, WeightFormat.GPTQ)
_COLUMNS = 32  # that a CPU's products take at a time; on a GPU a head of any precision has multiples of more


def head_problem(facts: Facts, device: str) -> str | None:
    """Why an int8 head can't be made on this device ("cpu" | "cuda"); None where it can.

    Raises what `describe` and `manifest` raise.
    """
    source = _source(manifest(facts, describe(facts)).weights)
    name, form = source.data.tensor.name, source.format
    # On a GPU, GGUF's blocks are unpacked to 16 bits when they are loaded: there an int8 head is the smaller one.
    if form in _FOUR_BIT if device == "cuda" else form not in _PLAIN:
        return f"the output head ({name}) is stored as {form.value} already, and computed as it is stored"
    if device == "cpu" and source.cols % _COLUMNS:
        return f"the output head ({name}) has {source.cols} columns: in int8 multiples of {_COLUMNS} are implemented"
    return None


def int8_head_of(weights: Sequence[Weight]) -> Weight:
    """The head in int8, of a manifest's own head or of its embedding table."""
    return msgspec.structs.replace(_source(weights), name=HEAD, format=WeightFormat.INT8)


def without_head(weights: Sequence[Weight]) -> tuple[Weight, ...]:
    """What an int8 head lies beside: everything but the weight that it takes the place of."""
    return tuple(w for w in weights if w.name != HEAD)


def head_item(nbytes: int) -> MemoryItem:
    """The row of the memory table."""
    return MemoryItem("output head", nbytes, "int8, a scale a row")


def tables_note(int8_head: bool, stored: str) -> str:
    """What the memory table says of the rest: `stored` is "as stored"."""
    return f"token table, {stored}" if int8_head else f"token table and output head, {stored}"


def words(facts: Facts, device: str) -> str:
    """What a plan says of the choice: "asked for; 501.5 MiB instead of 1002.0 MiB; perplexity +0.02 % on …"."""
    model = describe(facts)
    weights = manifest(facts, model).weights
    head = format_bytes(_held(int8_head_of(weights), device))
    if model.tied:
        size = f"a copy of {head} beside the token table, which look-ups need as it is"
    else:
        size = f"{head} instead of {format_bytes(_held(_source(weights), device))}"
    return f"asked for; {size}; perplexity {100 * PERPLEXITY[device]:+.2f} % on SmolLM2-135M (docs/native.md)"


def _source(weights: Sequence[Weight]) -> Weight:
    found = {w.name: w for w in weights if w.name in (HEAD, TABLE)}
    return found.get(HEAD) or found[TABLE]


def _held(weight: Weight, device: str) -> int:
    return packed_bytes(weight) if device == "cpu" else cuda_bytes(weight)


def cuda_bytes(weight: Weight) -> int:
    """Bytes of a head on a GPU, in int8 or in 16 bits."""
    return weight.rows * (weight.cols + 4 if weight.format == WeightFormat.INT8 else 2 * weight.cols)
