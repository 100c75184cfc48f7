"""Keys that contradict each other, found in a recipe as written: whatever else is wrong with it doesn't hide them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .diagnostics import KeyPath
from .plain import origin_conflict
from .tree import lookup

MIN_MEMORY = 1 << 20  # bytes; fewer are a size whose unit was forgotten


class Conflict(NamedTuple):
    """`path` is the key to point at, `others` the keys that it contradicts, as far as they are written."""

    path: KeyPath
    others: tuple[KeyPath, ...]
    message: str
    help: str
    code: str = "conflict"


def conflicts(data: Any) -> Iterator[Conflict]:
    """Every contradiction between keys of a recipe. Values that aren't of the right type are left to the schema."""
    for rule in (
        _origin,
        _download,
        _step,
        _rows,
        _chunks,
        _pool,
        _few_bytes,
        _blocks,
        _block_len,
        _exposure,
    ):
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


def _download(data: Any) -> Conflict | None:
    """A folder to fetch into, of a model that lies on the disk already."""
    model = _at(data, "model")
    if not isinstance(model, dict) or model.get("download_dir") is None or model.get("path") is None:
        return None
    return Conflict(
        ("model", "download_dir"),
        (("model", "path"),),
        "`model.path` is on this machine already: nothing is fetched into `model.download_dir`",
        "remove it, or name the model by `id` or `sources`",
    )


def _step(data: Any) -> Conflict | None:
    tokens, rows = _number(data, "engine", "max_prefill_tokens"), _number(data, "engine", "max_batch_size")
    if tokens is None or rows is None or tokens >= rows or _number(data, "engine", "max_step_tokens"):
        return None
    return Conflict(
        ("engine", "max_prefill_tokens"),
        (("engine", "max_batch_size"),),
        f"a step of {tokens} tokens can't serve {rows} requests: each that runs takes at least one token of it",
        f"write `max_prefill_tokens: {rows}` or more, or `max_batch_size: {tokens}` or less",
    )


def _rows(data: Any) -> Conflict | None:
    """What a step carries, against the rows that decode and the prompt tokens that it may read."""
    step, rows = _number(data, "engine", "max_step_tokens"), _number(data, "engine", "max_batch_size")
    tokens = _number(data, "engine", "max_prefill_tokens")
    if step and rows and step <= rows:
        return Conflict(
            ("engine", "max_step_tokens"),
            (("engine", "max_batch_size"),),
            f"a step of {step} tokens leaves nothing for prompts beside {rows} requests that decode",
            f"write `max_step_tokens: {rows + 1}` or more, or `max_batch_size: {max(1, step - 1)}` or less",
        )
    if step and tokens and tokens > step and not _number(data, "engine", "max_prefill_chunks"):
        return Conflict(
            ("engine", "max_prefill_tokens"),
            (("engine", "max_step_tokens"),),
            f"a step of {step} tokens never reads {tokens} of a prompt",
            f"write `max_prefill_tokens: {step}` or less, or `max_step_tokens: {tokens}` or more",
        )
    return None


def _chunks(data: Any) -> Conflict | None:
    chunks, tokens = (
        _number(data, "engine", "max_prefill_chunks"),
        _number(data, "engine", "max_prefill_tokens"),
    )
    session = _number(data, "engine", "session_len")
    if not chunks or not tokens or not session or chunks * tokens >= session:
        return None
    return Conflict(
        ("engine", "max_prefill_chunks"),
        (("engine", "max_prefill_tokens"), ("engine", "session_len")),
        f"{chunks} chunks of {tokens} tokens don't read a prompt as long as the session, {session}",
        f"write `max_prefill_tokens: {-(-session // chunks)}` or more, or leave it out",
    )


def _pool(data: Any) -> Conflict | None:
    cache = _at(data, "engine", "cache")
    if not isinstance(cache, dict):
        return None
    given = [key for key in cache if key in ("ratio", "bytes", "blocks") and cache[key] is not None]
    if len(given) < 2:
        return None
    names = " and ".join(f"`{key}`" for key in given)
    return Conflict(
        ("engine", "cache", given[-1]),
        tuple(("engine", "cache", key) for key in given[:-1]),
        f"`engine.cache` has {names}: the size of the KV memory is given once",
        "keep one of them; with --set or in a profile, set the other to null",
    )


def _block_len(data: Any) -> Conflict | None:
    """What no CPU, or no GPU, has kernels for; what one GPU alone lacks is the plan's to say."""
    length, device = _number(data, "engine", "cache", "block_len"), _at(data, "engine", "device")
    if length is None or not 8 <= length <= 1024:
        return None
    if device == "cpu" and (length > 256 or length & (length - 1)):
        rule = "a CPU takes blocks of a power of two, 8 to 256 tokens"
    elif device == "cuda" and length % 32:
        rule = "a GPU takes blocks of a multiple of 32 tokens, of 64 before compute capability 8.0"
    else:
        return None
    return Conflict(
        ("engine", "cache", "block_len"),
        (("engine", "device"),),
        f"blocks of {length} tokens are not possible on this device: {rule}",
        "write `block_len: 64`, which every device takes",
    )


def _few_bytes(data: Any) -> Conflict | None:
    """A size without its unit: `memory: 16` is 16 bytes, which every machine has."""
    for path in (("requires", "memory"), ("engine", "cache", "bytes")):
        size = _number(data, *path)
        if size is not None and size < MIN_MEMORY:
            name, key = ".".join(path), path[-1]
            what = f"`{name}` is {size} bytes, which is no memory to speak of"
            return Conflict(path, (), what, f"write the unit: `{key}: {size}GiB`", "out-of-range")
    return None


def _blocks(data: Any) -> Conflict | None:
    blocks, session = _number(data, "engine", "cache", "blocks"), _number(data, "engine", "session_len")
    length = _number(data, "engine", "cache", "block_len") or _default("engine", "cache", "block_len")
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
        import ipaddress

        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _default(*path: str) -> int:
    node = lookup(path[:-1])
    return int(node.keys[path[-1]]["default"]) if node else 0


def _number(data: Any, *path: str) -> int | None:
    value = _at(data, *path)
    return value if type(value) is int and value > 0 else None


def _at(data: Any, *path: str) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data
