"""What the native engine needs in bytes, and what it can't run: from a checkpoint's facts alone.

The planner calls this before anything is loaded; neither the library nor numpy is needed for it.
"""

from __future__ import annotations

from collections.abc import Callable

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import Facts
from deploykit.engine.native.describe import describe
from deploykit.engine.native.description import ModelDescription
from deploykit.engine.native.errors import UnsupportedError
from deploykit.engine.native.head import head_item, int8_head_of, tables_note, without_head
from deploykit.engine.native.names import manifest
from deploykit.engine.native.sizes import (
    MAX_HEAD_DIM,
    MIN_HEAD_DIM,
    kv_block_bytes,
    logit_bytes,
    packed_bytes,
    scratch_bytes,
)
from deploykit.plan.types import MemoryItem

MIB = 1 << 20

# Anonymous memory of the engine process beside what stands in the table: the interpreter, numpy, msgspec,
# the library, the checkpoint's headers, thread stacks (measured: docs/native.md).
_RUNTIME = 30 * MIB
_TABLES = ("embed.weight", "head.weight")


def supported(facts: Facts) -> str | None:
    """Why this engine can't run the checkpoint; None where nothing in the headers speaks against it."""
    try:
        model = describe(facts)
        check(model)
        manifest(facts, model)
    except UnsupportedError as error:
        return str(error)
    except CheckpointError as error:
        return "; ".join(part for part in (error.what, error.where, error.why) if part)
    return None


def block_bytes(facts: Facts, kv_dtype: str, block_len: int) -> int:
    """Bytes of one KV block over all layers, on a CPU."""
    return kv_block_bytes(describe(facts), kv_dtype, block_len)


def is_quantized(facts: Facts) -> bool:
    """Whether most bytes are quantized weights."""
    return facts.weight_dtype not in ("float32", "float16", "bfloat16")


Estimate = Callable[[int, int, int, int], tuple[MemoryItem, ...]]


def memory_of(facts: Facts, threads: int = 1, *, int8_head: bool = False) -> Estimate:
    """The memory table of a deployment on a CPU, as a function of (max_prefill_tokens, max_batch_size, session_len,
    kv_bytes): bytes of anonymous memory; kv_bytes is the whole page pool. Raises what `describe` and `manifest` raise.
    """
    model = describe(facts)
    weights = manifest(facts, model).weights
    head = [head_item(packed_bytes(int8_head_of(weights)))] if int8_head else []
    if int8_head:
        weights = without_head(weights)
    body = [w for w in weights if w.name not in _TABLES]
    body_bytes = sum(map(packed_bytes, body))
    table_bytes = sum(packed_bytes(w) for w in weights if w.name in _TABLES)
    count = sum(w.rows * w.cols for w in body)

    def table(tokens: int, rows: int, session_len: int, kv_bytes: int) -> tuple[MemoryItem, ...]:
        scratch = scratch_bytes(model, tokens, threads)
        stored = f"{count / 1e6:.0f}M parameters stored as {facts.weight_dtype}, packed once"
        return (
            MemoryItem("weights", body_bytes, stored),
            MemoryItem("embeddings", table_bytes, tables_note(int8_head, "as stored")),
            *head,
            MemoryItem("kv", kv_bytes, "page pool, all layers"),
            MemoryItem("activations", scratch, f"one step of {tokens} tokens"),
            MemoryItem(
                "logits", logit_bytes(facts.vocab_size, rows, tokens), "float32, of some rows at once"
            ),
            MemoryItem("token pool", rows * session_len * 4, "token ids and block tables of every row"),
            MemoryItem("runtime", _RUNTIME, "Python, numpy, the library"),
        )

    return table


def check(model: ModelDescription) -> None:
    """Raises UnsupportedError for a description that the library's kernels don't take."""
    for index, layer in enumerate(model.layers):
        size = layer.attention.head_dim
        if size % 8 or not MIN_HEAD_DIM <= size <= MAX_HEAD_DIM:
            allowed = f"multiples of 8 from {MIN_HEAD_DIM} to {MAX_HEAD_DIM}"
            raise UnsupportedError(
                f"heads of {size} dimensions (layer {index}) are not implemented: {allowed} are"
            )
