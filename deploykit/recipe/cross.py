"""Keys that contradict each other, found in a recipe as written: whatever else is wrong with it doesn't hide them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, NamedTuple

from .diagnostics import KeyPath
from .schema import CacheSection, origin_conflict

_BLOCK_LEN: int = CacheSection.model_fields["block_len"].default


class Conflict(NamedTuple):
    """`path` is the key to point at, `others` the keys that it contradicts, as far as they are written."""

    path: KeyPath
    others: tuple[KeyPath, ...]
    message: str
    help: str
    code: str = "conflict"


def conflicts(data: Any) -> Iterator[Conflict]:
    """Every contradiction between keys of a recipe. Values that aren't of the right type are left to the schema."""
    for rule in (_origin, _step, _blocks, _exposure):
        if found := rule(data):
            yield found


def _origin(data: Any) -> Conflict | None:
    model = _at(data, "model")
    if not isinstance(model, dict) or not (wrong := origin_conflict(model)):
        return None
    if wrong.key is None:
        return Conflict(("model", "id"), (), wrong.message, "for example `id: owner/name`", "missing-key")
    help = "remove it" if wrong.key == "revision" else "keep one of them; with --set, set the other to null"
    others = tuple(
        ("model", key) for key in ("id", "path", "sources") if key != wrong.key and model.get(key) is not None
    )
    return Conflict(("model", wrong.key), others, wrong.message, help)


def _step(data: Any) -> Conflict | None:
    tokens, rows = _number(data, "engine", "max_prefill_tokens"), _number(data, "engine", "max_batch_size")
    if tokens is None or rows is None or tokens >= rows:
        return None
    return Conflict(
        ("engine", "max_prefill_tokens"),
        (("engine", "max_batch_size"),),
        f"a step of {tokens} tokens can't serve {rows} requests: each that runs takes at least one token of it",
        f"write `max_prefill_tokens: {rows}` or more, or `max_batch_size: {tokens}` or less",
    )


def _blocks(data: Any) -> Conflict | None:
    blocks, session = _number(data, "engine", "cache", "blocks"), _number(data, "engine", "session_len")
    length = _number(data, "engine", "cache", "block_len") or _BLOCK_LEN
    if blocks is None or session is None or blocks * length >= session:
        return None
    return Conflict(
        ("engine", "cache", "blocks"),
        (("engine", "session_len"), ("engine", "cache", "block_len")),
        f"{blocks} blocks of {length} tokens hold {blocks * length} tokens, less than one session of {session}",
        f"write `blocks: {-(-session // length)}` or more, or `session_len: {blocks * length}` or less",
    )


def _exposure(data: Any) -> Conflict | None:
    host = _at(data, "server", "host")
    if not isinstance(host, str) or not host or _is_loopback(host) or _at(data, "server", "api_keys"):
        return None
    return Conflict(
        ("server", "host"),
        (("server", "api_keys"),),
        "`server.host` is open to other machines, and no API key is asked for",
        "add `api_keys: [{env: DEPLOYKIT_API_KEY}]` and set that variable; or `host: 127.0.0.1`",
    )


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. A name other than localhost is taken to be open."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _number(data: Any, *path: str) -> int | None:
    value = _at(data, *path)
    return value if type(value) is int and value > 0 else None


def _at(data: Any, *path: str) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data
