"""The search for sizes that fit: session, batch, step budget and KV blocks against the device's bytes."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from deploykit.plan.memory import blocks_for
from deploykit.plan.text import format_bytes, format_count
from deploykit.plan.types import Decision, MemoryItem, least_chunk, step_capacity

MIB = 1 << 20
GIB = 1 << 30

MIN_SESSION = 512  # an automatic session_len is never made shorter than this
CPU_SESSION = 8192  # nor longer than this on a CPU, where attention over a long context takes seconds a token
CPU_KV_CAP = 1 * GIB  # the pool's, but for one full session
CPU_SESSION_CAP = 2 * GIB  # an automatic session takes no more KV than this
CPU_KV_SHARE = 0.25  # of the memory that is available
CPU_RESERVE = 256 * MIB  # the front process, and air for everybody else
CPU_RESERVE_SHARE = 0.05  # of the memory that the machine has, where that is more

BATCH = {"cpu": 16, "cuda": 256}
# Step budgets that `auto` tries, best first: long steps feed a GPU, short ones keep a CPU's decoding rows moving.
PREFILL = {"cpu": (512, 256, 128), "cuda": (8192, 4096, 2048, 1024, 512)}
COMFORTABLE_SESSION = 8192  # a smaller step budget is chosen before a session shorter than this is


# (prefill, batch, session, kv bytes) -> table
Cost = Callable[[int, int, int, int], tuple[MemoryItem, ...]]


@dataclass(frozen=True)
class Wish:
    """What the recipe asks for; None is `auto`."""

    session_len: int | None
    max_batch_size: int | None
    max_prefill_tokens: int | None
    blocks: int | None
    ratio: float
    block_len: int
    kv_bytes: int | None = None  # of all KV blocks, in place of a number of them
    ratio_given: bool = False  # written in the recipe: it counts on a CPU too
    max_step_tokens: int | None = None
    max_prefill_chunks: int | None = None

    def blocks_at(self, block_bytes: int) -> int | None:
        """The number of KV blocks that is asked for, as such or in bytes."""
        return self.blocks if self.kv_bytes is None else self.kv_bytes // block_bytes


@dataclass(frozen=True)
class Place:
    """The device as the search sees it. `limit` and `available` are bytes."""

    kind: str  # cpu | cuda
    limit: int
    available: int
    trained_len: int
    block_bytes: int  # of one KV block
    cost: Cost


@dataclass(frozen=True)
class Sizes:
    session_len: int
    max_batch_size: int
    max_prefill_tokens: int
    max_step_tokens: int
    num_blocks: int
    memory: tuple[MemoryItem, ...]
    decisions: tuple[Decision, ...] = ()


class DoesNotFitError(Exception):
    """`sizes` are the smallest that were tried; `decisions` is empty in them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__("does not fit")
        self.sizes = sizes


def cpu_limit(total: int, available: int) -> int:
    """Bytes the engine process may use on a CPU."""
    return max(0, available - max(CPU_RESERVE, int(total * CPU_RESERVE_SHARE)))


def find_sizes(wish: Wish, place: Place) -> Sizes:
    """The largest sizes within the wish that fit. Raises DoesNotFitError."""
    longest = _longest_session(wish, place)
    target = wish.session_len or min(longest, COMFORTABLE_SESSION)
    smallest = wish.session_len or min(MIN_SESSION, longest)
    steps = list(_steps(wish, place.kind))
    for session in dict.fromkeys((target, smallest)):
        for batch, prefill in steps:
            if session > smallest and not _within_cap(wish, place, session):
                continue
            sizes = _pool(wish, place, session, batch, prefill)
            if sizes is not None:
                if wish.session_len is None:
                    sizes = _stretch(wish, place, sizes, longest)
                return replace(sizes, decisions=_explain(wish, place, sizes))
    batch, prefill = steps[-1]
    asked = wish.blocks_at(place.block_bytes)
    blocks = blocks_for(smallest, wish.block_len) if asked is None else asked
    raise DoesNotFitError(_sizes(wish, place, smallest, batch, prefill, blocks))


def _longest_session(wish: Wish, place: Place) -> int:
    longest = place.trained_len if place.kind == "cuda" else min(place.trained_len, CPU_SESSION)
    if wish.max_prefill_chunks and wish.max_prefill_tokens:
        longest = min(longest, wish.max_prefill_chunks * wish.max_prefill_tokens)
    blocks = wish.blocks_at(place.block_bytes)
    return min(longest, blocks * wish.block_len) if blocks else longest


def _steps(wish: Wish, kind: str) -> Iterator[tuple[int, int]]:
    """(max_batch_size, max_prefill_tokens) to try. A step holds a token of every running row."""
    if wish.max_step_tokens:  # it exceeds max_batch_size, so that a prompt is read while all others decode
        prefill = wish.max_prefill_tokens or wish.max_step_tokens
        yield wish.max_batch_size or min(BATCH[kind], wish.max_step_tokens - 1), prefill
        return
    if wish.max_prefill_tokens:
        yield wish.max_batch_size or min(BATCH[kind], wish.max_prefill_tokens), wish.max_prefill_tokens
        return
    batch = wish.max_batch_size or BATCH[kind]
    for prefill in dict.fromkeys(max(tokens, batch) for tokens in PREFILL[kind]):
        yield batch, prefill


def _sizes(wish: Wish, place: Place, session: int, batch: int, prefill: int, blocks: int) -> Sizes:
    step, most = _step(wish, batch, prefill, session)
    table = place.cost(most, batch, session, blocks * place.block_bytes)
    prefill = max(prefill, least_chunk(session, wish.max_prefill_chunks))
    return Sizes(session, batch, prefill, step, blocks, table)


def _step(wish: Wish, batch: int, prefill: int, session: int) -> tuple[int, int]:
    """(tokens of a step, of the largest one)."""
    step = wish.max_step_tokens or max(prefill, batch + 1)
    return step, step_capacity(step, wish.max_prefill_chunks, session, batch)


def _pool(wish: Wish, place: Place, session: int, batch: int, prefill: int) -> Sizes | None:
    """The KV pool beside everything else, or None where it can't hold one full session."""
    _, step = _step(wish, batch, prefill, session)
    fixed = sum(item.bytes for item in place.cost(step, batch, session, 0))
    free = place.limit - fixed
    block_bytes = place.block_bytes
    one = blocks_for(session, wish.block_len)
    asked = wish.blocks_at(block_bytes)
    if asked is not None:
        blocks = asked
    elif place.kind == "cuda":
        blocks = int(max(0, free) * wish.ratio) // block_bytes
    elif wish.ratio_given:  # in place of the cap: no more than the rows can use
        blocks = min(one * batch, int(max(0, free) * wish.ratio) // block_bytes)
    else:
        blocks = min(one * batch, max(one, _cpu_cap(place) // block_bytes), max(0, free) // block_bytes)
    if blocks < one or blocks * block_bytes > free:
        return None
    if not wish.max_batch_size and batch > blocks:
        batch = blocks  # a running row holds at least one block
    return _sizes(wish, place, session, batch, prefill, blocks)


def _cpu_cap(place: Place, cap: int = CPU_KV_CAP) -> int:
    return min(cap, int(place.available * CPU_KV_SHARE))


def _within_cap(wish: Wish, place: Place, session: int) -> bool:
    """On a CPU an automatic session stays under a cap of its own."""
    most = _cpu_cap(place, CPU_SESSION_CAP)
    return (
        place.kind == "cuda"
        or wish.blocks_at(place.block_bytes) is not None
        or session * place.block_bytes <= most * wish.block_len
    )


def _stretch(wish: Wish, place: Place, sizes: Sizes, longest: int) -> Sizes:
    """The longest session that fits beside the batch and the step budget of `sizes`."""

    def attempt(session: int) -> Sizes | None:
        if not _within_cap(wish, place, session):
            return None
        return _pool(wish, place, session, sizes.max_batch_size, sizes.max_prefill_tokens)

    lengths = range(0, longest, wish.block_len)
    first_bad = bisect.bisect_left(
        lengths,
        True,
        lo=sizes.session_len // wish.block_len + 1,
        key=lambda session: attempt(session) is None,
    )
    return attempt(longest) or attempt(lengths[first_bad - 1]) or sizes


# ---------------------------------------------------------------- reasons


def _explain(wish: Wish, place: Place, sizes: Sizes) -> tuple[Decision, ...]:
    found = []
    if wish.session_len is None:
        found.append(
            Decision("engine.session_len", str(sizes.session_len), _session_reason(wish, place, sizes))
        )
    if wish.max_batch_size is None:
        reason = (
            "rows that one step still serves quickly on a CPU" if place.kind == "cpu" else "rows of a step"
        )
        if sizes.max_batch_size < BATCH[place.kind]:
            reason = "one KV block a row"
            if wish.max_step_tokens == sizes.max_batch_size + 1:
                reason = "engine.max_step_tokens holds no more"
            elif wish.max_prefill_tokens == sizes.max_batch_size:
                reason = "engine.max_prefill_tokens holds no more"
        found.append(Decision("engine.max_batch_size", str(sizes.max_batch_size), reason))
    if wish.max_prefill_tokens is None:
        default = PREFILL[place.kind][0]
        if sizes.max_prefill_tokens == wish.max_step_tokens:
            reason = "engine.max_step_tokens, where no row decodes"
        elif sizes.max_prefill_tokens == least_chunk(sizes.session_len, wish.max_prefill_chunks):
            reason = "so that engine.max_prefill_chunks is kept by the longest prompt"
        elif sizes.max_prefill_tokens < default:
            reason = f"made smaller than {default} so that a session fits"
        elif sizes.max_prefill_tokens > default:
            reason = "a step must hold a token of every row of engine.max_batch_size"
        elif place.kind == "cpu":
            reason = "short steps: a long prompt doesn't hold up the rows that decode"
        else:
            reason = "long steps keep a GPU busy"
        found.append(Decision("engine.max_prefill_tokens", str(sizes.max_prefill_tokens), reason))
    if wish.max_prefill_chunks:
        most = step_capacity(
            sizes.max_step_tokens, wish.max_prefill_chunks, sizes.session_len, sizes.max_batch_size
        )
        if most > sizes.max_step_tokens:
            reason = f"a step grows to {format_count(most)} where engine.max_prefill_chunks needs it"
            found.append(Decision("engine.max_step_tokens", str(sizes.max_step_tokens), reason))
    if wish.blocks is None:
        found.append(
            Decision("engine.cache.blocks", str(sizes.num_blocks), _blocks_reason(wish, place, sizes))
        )
    return tuple(found)


def _session_reason(wish: Wish, place: Place, sizes: Sizes) -> str:
    if sizes.session_len == place.trained_len:
        return "the length the model was trained for"
    trained = f"the model was trained for {format_count(place.trained_len)}"
    if place.kind == "cpu" and sizes.session_len == CPU_SESSION:
        return f"the longest that is chosen on a CPU; {trained}"
    asked = wish.blocks_at(place.block_bytes)
    if asked and sizes.session_len == asked * wish.block_len:
        key = "engine.cache.blocks" if wish.kv_bytes is None else "engine.cache.bytes"
        return f"what {key} holds; {trained}"
    chunks, tokens = wish.max_prefill_chunks, wish.max_prefill_tokens
    if chunks and tokens and sizes.session_len == chunks * tokens:
        return f"what engine.max_prefill_chunks of engine.max_prefill_tokens read; {trained}"
    return f"what fits in memory; {trained}"


def _blocks_reason(wish: Wish, place: Place, sizes: Sizes) -> str:
    block_bytes = place.block_bytes
    pool = format_bytes(sizes.num_blocks * block_bytes)
    if wish.kv_bytes is not None:
        return f"{pool}: the whole blocks in engine.cache.bytes"
    one = blocks_for(sizes.session_len, wish.block_len)
    if place.kind == "cuda" or (wish.ratio_given and sizes.num_blocks < one * sizes.max_batch_size):
        return f"{pool}: {wish.ratio:.0%} of what the weights and the steps leave free (engine.cache.ratio)"
    if sizes.num_blocks == one * sizes.max_batch_size:
        return f"{pool}: {sizes.max_batch_size} sessions of {format_count(sizes.session_len)} tokens"
    if sizes.num_blocks == one:
        return f"{pool}: one full session, the least that works"
    if sizes.num_blocks == CPU_KV_CAP // block_bytes:
        return f"{pool}: the cap on a CPU (engine.cache.blocks sets another)"
    if sizes.num_blocks == _cpu_cap(place) // block_bytes:
        return f"{pool}: {CPU_KV_SHARE:.0%} of the memory that is available"
    return f"{pool}: what is left of the memory"
