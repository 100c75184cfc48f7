"""Sampling as `docs/sampling.md` specifies it: the reference in numpy that every runner is compared with.

One row at a time, written to be read. A runner with many rows or a GPU has its own implementation and passes
the same golden vectors (`tests/golden/sampling.json`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deploykit.engine.philox import sibling_seed, uniform, uniforms
from deploykit.engine.types import SamplingParams, TokenLogprob

__all__ = [
    "Sampled",
    "SamplingError",
    "candidates",
    "check_finite",
    "draw",
    "is_plain_greedy",
    "process",
    "sample_row",
    "sibling_seed",
    "token_logprob",
    "uniform",
    "uniforms",
]

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
MaskArray = npt.NDArray[np.uint32]


class SamplingError(Exception):
    """A row can't draw a token. `code`: no_token | nonfinite_logits | invalid."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Sampled(NamedTuple):
    token: int
    logprob: TokenLogprob | None  # where the parameters ask for it


def is_plain_greedy(params: SamplingParams) -> bool:
    """True where the token is the argmax of the raw logits (grammar masks and log probabilities aside)."""
    return (
        params.temperature == 0
        and params.repetition_penalty == 1
        and params.frequency_penalty == 0
        and params.presence_penalty == 0
        and not params.logit_bias
        and not params.bad_words
        and params.min_tokens == 0
    )


def check_finite(logits: Float32Array) -> None:
    """Raises SamplingError("nonfinite_logits") where a raw logit is NaN or infinite."""
    if not np.isfinite(logits).all():
        bad = int(np.flatnonzero(~np.isfinite(logits))[0])
        raise SamplingError("nonfinite_logits", f"the logit of token {bad} is {logits[bad]}")


def process(
    logits: npt.ArrayLike,
    params: SamplingParams,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    eos_ids: Sequence[int] = (),
    mask: MaskArray | None = None,
) -> Float32Array:
    """Logits [vocab] after bias, penalties and masks (steps 1 to 5): masked tokens are -inf.

    `mask` is uint32[ceil(vocab / 32)], bit i % 32 of word i // 32 set = token i is allowed.
    Raises SamplingError with code nonfinite_logits, no_token or invalid.
    """
    x = np.array(logits, dtype=np.float32)  # a copy
    check_finite(x)
    with np.errstate(over="ignore"):
        _add_bias(x, params.logit_bias)
        _penalize(x, params, prompt_ids, output_ids)
    if not (x < np.inf).all():  # NaN or +inf: finite logits overflowed under a penalty
        raise SamplingError("nonfinite_logits", "a logit overflowed under a bias or a penalty")
    _mask_tokens(x, params, prompt_ids, output_ids, eos_ids)
    if mask is not None:
        x[~_allowed(mask, x.size)] = -np.inf
    if not (x > -np.inf).any():
        raise SamplingError("no_token", "every token of the vocabulary is masked")
    return x


def _add_bias(x: Float32Array, logit_bias: dict[int, float]) -> None:
    for token, bias in logit_bias.items():
        if not 0 <= token < x.size:
            raise SamplingError("invalid", f"logit_bias names token {token}; the vocabulary has {x.size}")
        x[token] += np.float32(bias)


def _penalize(
    x: Float32Array, params: SamplingParams, prompt_ids: Sequence[int], output_ids: Sequence[int]
) -> None:
    if params.repetition_penalty != 1:
        seen = np.unique(np.concatenate([np.asarray(prompt_ids, np.int64), np.asarray(output_ids, np.int64)]))
        penalty = np.float32(params.repetition_penalty)
        x[seen] = np.where(x[seen] > 0, x[seen] / penalty, x[seen] * penalty)
    if (params.frequency_penalty != 0 or params.presence_penalty != 0) and len(output_ids):
        produced, counts = np.unique(np.asarray(output_ids, np.int64), return_counts=True)
        x[produced] -= counts.astype(np.float32) * np.float32(params.frequency_penalty)
        x[produced] -= np.float32(params.presence_penalty)


def _mask_tokens(
    x: Float32Array,
    params: SamplingParams,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    eos_ids: Sequence[int],
) -> None:
    if len(output_ids) < params.min_tokens:
        for token in (*eos_ids, *params.stop_token_ids):
            if 0 <= token < x.size:  # an id outside the vocabulary can't be drawn anyway
                x[token] = -np.inf
    for word in params.bad_words:
        if word and 0 <= word[-1] < x.size and _ends_with(prompt_ids, output_ids, word[:-1]):
            x[word[-1]] = -np.inf


def _ends_with(prompt_ids: Sequence[int], output_ids: Sequence[int], tail: tuple[int, ...]) -> bool:
    """Whether prompt + output ends with `tail`."""
    if len(tail) > len(prompt_ids) + len(output_ids):
        return False
    for back, token in enumerate(reversed(tail), start=1):
        in_output = back <= len(output_ids)
        latest = output_ids[-back] if in_output else prompt_ids[len(output_ids) - back]
        if latest != token:
            return False
    return True


def _allowed(mask: MaskArray, vocab_size: int) -> npt.NDArray[np.bool_]:
    words = -(-vocab_size // 32)
    if mask.size != words:
        raise SamplingError("invalid", f"the mask has {mask.size} words; {vocab_size} tokens take {words}")
    bits = np.unpackbits(np.ascontiguousarray(mask, dtype="<u4").view(np.uint8), bitorder="little")
    return bits[:vocab_size].astype(bool)


def candidates(x: Float32Array, params: SamplingParams) -> tuple[npt.NDArray[np.int64], Float64Array]:
    """The tokens that may be drawn (steps 6 to 10): ids ascending [kept] and their weights float64 [kept].

    `x` comes from `process`. Weights are relative to the most likely token's 1 and aren't normalised. With
    temperature 0 the argmax alone is kept, the lowest id on ties.
    """
    if params.temperature == 0:
        return np.array([np.argmax(x)], dtype=np.int64), np.ones(1)
    ids = np.flatnonzero(x > -np.inf)
    if 0 < params.top_k < ids.size:
        kth = np.partition(x[ids], ids.size - params.top_k)[ids.size - params.top_k]
        ids = ids[x[ids] >= kth]
    x = x[ids]
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to -inf: weight 0
        weights = np.exp((x.astype(np.float64) - float(x.max())) / params.temperature)
    keep = np.ones(ids.size, dtype=bool)
    if params.top_p < 1:
        order = np.argsort(-x, kind="stable")
        mass = np.cumsum(weights[order])
        ahead = np.concatenate([[0.0], mass[:-1]])  # mass of what is more likely
        last = int(np.flatnonzero(ahead < params.top_p * mass[-1])[-1])
        keep &= x >= x[order[last]]  # ties with the last one stay
    if params.min_p > 0:
        keep &= weights >= params.min_p
    return ids[keep], weights[keep]


def draw(x: Float32Array, params: SamplingParams, seed: int, position: int) -> int:
    """The token (steps 6 to 11) from processed logits; `position` = output tokens produced before it."""
    ids, weights = candidates(x, params)
    if ids.size == 1:
        return int(ids[0])
    edges = np.cumsum(weights)
    # the first edge beyond u * total; a token of weight 0 is never the first
    index = int(np.searchsorted(edges, uniform(seed, position) * edges[-1], side="right"))
    return int(ids[min(index, ids.size - 1)])


def token_logprob(logits: npt.ArrayLike, token: int, k: int) -> TokenLogprob:
    """Log probability and rank of `token` under raw `logits` [vocab], with the `k` best alternatives.

    The order behind `rank` and `top` is by descending logit, then by ascending id.
    """
    x = np.asarray(logits, dtype=np.float32)
    best = float(x.max())
    log_total = best + float(np.log(np.exp(x.astype(np.float64) - best).sum()))
    own = x[token]
    rank = 1 + int((x > own).sum()) + int((x[:token] == own).sum())
    k = min(k, x.size)
    top: tuple[tuple[int, float], ...] = ()
    if k > 0:
        kth = np.partition(x, x.size - k)[x.size - k]
        ids = np.flatnonzero(x >= kth)
        ids = ids[np.argsort(-x[ids], kind="stable")][:k]
        top = tuple((int(i), float(x[i]) - log_total) for i in ids)
    return TokenLogprob(token=token, logprob=float(own) - log_total, rank=rank, top=top)


def sample_row(
    logits: npt.ArrayLike,
    params: SamplingParams,
    *,
    seed: int,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    eos_ids: Sequence[int] = (),
    mask: MaskArray | None = None,
) -> Sampled:
    """One row's next token, with its log probabilities where `params.logprobs` asks for them."""
    processed = process(logits, params, prompt_ids, output_ids, eos_ids, mask)
    token = draw(processed, params, seed, len(output_ids))
    logprob = None if params.logprobs is None else token_logprob(logits, token, params.logprobs)
    return Sampled(token, logprob)
