"""KV memory by kind of layer, as pure functions: bytes of a token, of a page, and of a whole sequence.

    full, grouped   kv_heads * (key_dim * bits of K / 8 + value_dim * bits of V / 8 + scales)   a token
    latent          kv_lora_rank + qk_rope_dim numbers a token, whole on every device
    window          pages for min(window - 1 + prefill, session) tokens, and one where it begins inside a page
    chunked         pages for min(chunk + prefill, session) tokens
    cross           pages for the encoder's positions
    state           the same for a session of any length

Keys and values of 8 and 4 bits have a 16-bit scale and zero a token and head each, as the native engine stores
them; fp8 has one scale for all, which is not counted. `prefill` is the tokens of a step's longest part of a prompt:
they are written before the window's earlier tokens are let go. Heads are shared out to `tp` devices, and copied
where there are more devices than heads. Source of the page counts: vLLM, v1/kv_cache_interface.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from deploykit.plan.kinds import Layers, layers_of
from deploykit.plan.text import format_count

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts

# policy or dtype: bits of K, bits of V, bytes of scale and zero of each of them
PRECISIONS = {
    "float32": (32, 32, 0),
    "bfloat16": (16, 16, 0),
    "float16": (16, 16, 0),
    "fp8": (8, 8, 0),
    "int8": (8, 8, 4),
    "k8v4": (8, 4, 4),
    "int4": (4, 4, 4),
}
_STATE_BYTES = 4  # float32, as the reference code accumulates


def _up(count: int, unit: int) -> int:
    return -(-count // unit)


def heads_of(kv_heads: int, tp: int) -> int:
    """KV heads on each of `tp` devices; a head is copied where there are fewer heads than devices."""
    return max(1, _up(kv_heads, tp))


def token_bytes(layers: Layers, precision: str, tp: int = 1) -> int:
    """Bytes of one token in one of the layers, on each of `tp` devices; 0 for those that keep no tokens.

    A latent vector is key and value at once, so that `k8v4` keeps it at 8 bits.
    """
    key_bits, value_bits, scale = PRECISIONS[precision]
    if layers.kind == "latent":
        return layers.key_dim * key_bits // 8 + scale + layers.index_bytes
    if layers.kind in ("state", "none"):
        return 0
    head = layers.key_dim * key_bits // 8 + layers.value_dim * value_bits // 8 + 2 * scale
    return heads_of(layers.kv_heads, tp) * head


def page_bytes(layers: Layers, precision: str, block_len: int, tp: int = 1) -> int:
    """Bytes of `block_len` tokens in one of the layers."""
    return block_len * token_bytes(layers, precision, tp)


def pages(layers: Layers, session_len: int, prefill: int, block_len: int) -> int:
    """Pages that one sequence of `session_len` tokens holds at most, in one of the layers."""
    whole = _up(session_len, block_len)
    if layers.kind in ("full", "latent"):
        return whole
    if layers.kind == "window":
        # the oldest token seen may stand anywhere in its page; never more than the sequence has
        return min(_up(min(layers.span - 1 + prefill, session_len), block_len) + 1, whole)
    if layers.kind == "chunked":
        return _up(min(layers.span + prefill, session_len), block_len)
    return _up(layers.span, block_len) if layers.kind == "cross" else 0


def state_bytes(layers: Layers, dtype: str = "bfloat16", tp: int = 1) -> int:
    """Bytes of one sequence's state in one of the layers, however long the sequence is."""
    size = PRECISIONS[dtype][0] // 8
    return _up(layers.conv, tp) * size + _up(layers.recurrent, tp) * _STATE_BYTES


def sequence_bytes(
    layers: Layers, precision: str, *, session_len: int, prefill: int, block_len: int, dtype: str, tp: int = 1
) -> int:
    """Bytes of one full session in all of these layers."""
    held = pages(layers, session_len, prefill, block_len) * page_bytes(layers, precision, block_len, tp)
    return layers.count * (held + state_bytes(layers, dtype, tp))


# ---------------------------------------------------------------- the table


class KVRow(msgspec.Struct, frozen=True):
    """What the layers of one kind keep, on each device."""

    kind: str
    layers: int
    token_bytes: int  # of one token in all of these layers; 0: a state
    pages: int  # of one full session, in each layer
    session_bytes: int  # of one full session in all of these layers
    note: str


class KVTable(msgspec.Struct, frozen=True, kw_only=True):
    """KV memory of a model by kind of layer, as the formulas give it. An engine's own layout may pad."""

    rows: tuple[KVRow, ...]
    precision: str
    block_len: int
    session_len: int
    prefill: int
    tp: int
    token_bytes: int  # of one more token, in the layers that keep all of them
    session_bytes: int  # of one full session
    whole_bytes: int  # the same if windows and chunks were kept for whole sessions


def kv_table(
    facts: Facts,
    *,
    session_len: int,
    block_len: int = 64,
    prefill: int = 8192,
    precision: str = "bfloat16",
    dtype: str = "bfloat16",
    tp: int = 1,
) -> KVTable:
    """The table of a checkpoint. `precision` is the KV dtype or a `quant_policy`; `dtype` that of activations.

    Raises UnknownKindError for layers that no formula covers.
    """
    rows, whole = [], 0
    for layers in layers_of(facts):
        each = token_bytes(layers, precision, tp)
        held = pages(layers, session_len, prefill, block_len)
        session = sequence_bytes(
            layers,
            precision,
            session_len=session_len,
            prefill=prefill,
            block_len=block_len,
            dtype=dtype,
            tp=tp,
        )
        local = layers.kind in ("window", "chunked")
        everything = layers.count * _up(session_len, block_len) * block_len * each
        whole += everything if local else session
        rows.append(KVRow(layers.kind, layers.count, layers.count * each, held, session, _note(layers, tp)))
    return KVTable(
        rows=tuple(rows),
        precision=precision,
        block_len=block_len,
        session_len=session_len,
        prefill=prefill,
        tp=tp,
        token_bytes=sum(row.token_bytes for row in rows if row.kind in ("full", "latent")),
        session_bytes=sum(row.session_bytes for row in rows),
        whole_bytes=whole,
    )


def _note(layers: Layers, tp: int) -> str:
    if layers.kind == "none":
        return "keeps nothing of a sequence"
    if layers.kind == "state":
        return "a state of constant size a sequence"
    if layers.kind == "latent":
        index = f", and {layers.index_bytes} bytes to choose by" if layers.index_bytes else ""
        shared = ", the same on every device" if tp > 1 else ""
        return f"one vector of {layers.key_dim} a token{index}{shared}"
    dims = (
        f"{layers.key_dim}"
        if layers.key_dim == layers.value_dim
        else f"{layers.key_dim} and {layers.value_dim}"
    )
    heads = "1 KV head" if layers.kv_heads == 1 else f"{layers.kv_heads} KV heads"
    copied = ", copied to devices beyond them" if tp > layers.kv_heads else ""
    seen = {
        "full": "",
        "window": f", the last {format_count(layers.span)} tokens",
        "chunked": f", a chunk of {format_count(layers.span)} tokens",
        "cross": f", {format_count(layers.span)} positions of the encoder",
    }
    return f"{heads} of {dims}{seen[layers.kind]}{copied}"
