"""Sampling as `docs/sampling.md` specifies it, for many rows at once in torch.

Greedy rows without penalties take one argmax for all. The rest is processed row by row where it is sparse (biases,
penalties, bad words) and all rows together where it is wide (softmax, top-k, top-p, min-p, the draw).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from deploykit.engine.philox import uniforms
from deploykit.engine.types import Int32Array, SamplingParams, TokenLogprob

_CANDIDATES = 1024  # most likely tokens looked at for top_p before everything is sorted


@dataclass(slots=True)
class Draw:
    """One row's request for a token."""

    params: SamplingParams
    seed: int
    prompt: Int32Array
    output: Int32Array
    eos: tuple[int, ...]
    plain: bool  # greedy, nothing changes the logits and no log probability is asked
    mask: npt.NDArray[np.uint32] | None = None


@dataclass(slots=True)
class Drawn:
    """What became of it: a token, or an error code and its reason."""

    token: int = -1
    logprob: TokenLogprob | None = None
    error: tuple[str, str] | None = None


def sample(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Drawn]:
    """float32 logits [n, vocab] -> one result a row. A row's fault is its own; `logits` is not changed."""
    best = torch.argmax(logits, dim=-1).tolist()
    # a sum is finite where all its terms are (logits are far from overflowing it)
    finite = torch.isfinite(logits.sum(dim=-1)).tolist()
    results = [Drawn() for _ in draws]
    rest: list[int] = []
    for i, draw in enumerate(draws):
        if not finite[i] and not bool(torch.isfinite(logits[i]).all()):
            results[i].error = ("nonfinite_logits", "the model gave a logit that is not a finite number")
        elif draw.plain and draw.mask is None:
            results[i].token = best[i]
        else:
            rest.append(i)
    if rest:
        _sample_rest(logits, draws, rest, results)
    return results


def _sample_rest(logits: torch.Tensor, draws: Sequence[Draw], rows: list[int], results: list[Drawn]) -> None:
    processed = logits[rows]  # a copy
    live: list[int] = []  # indices into `rows`
    for j, i in enumerate(rows):
        error = _process(processed[j], draws[i])
        if error is None:
            live.append(j)
        else:
            results[i].error = error
    greedy = [j for j in live if draws[rows[j]].params.temperature == 0]
    drawn = [j for j in live if draws[rows[j]].params.temperature != 0]
    if greedy:
        for j, token in zip(greedy, torch.argmax(processed[greedy], dim=-1).tolist(), strict=True):
            results[rows[j]].token = token
    if drawn:
        tokens = _draw(processed[drawn], [draws[rows[j]] for j in drawn])
        for j, token in zip(drawn, tokens, strict=True):
            results[rows[j]].token = token
    asked = [i for i in rows if results[i].error is None and draws[i].params.logprobs is not None]
    if asked:
        counts = [draws[i].params.logprobs or 0 for i in asked]
        found = token_logprobs(logits[asked], [results[i].token for i in asked], counts)
        for i, logprob in zip(asked, found, strict=True):
            results[i].logprob = logprob


def _process(x: torch.Tensor, draw: Draw) -> tuple[str, str] | None:
    """Steps 1 to 5 on one row, in place; the error the row fails with, if any."""
    params, vocab = draw.params, x.shape[0]
    for token in params.logit_bias:
        if not 0 <= token < vocab:
            return "invalid", f"logit_bias names token {token}; the vocabulary has {vocab}"
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=x.device)
        x[ids] += torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=x.device)
    penalized = _penalize(x, draw)
    if (params.logit_bias or penalized) and not bool((x < torch.inf).all()):
        return "nonfinite_logits", "a logit overflowed under a bias or a penalty"
    forbidden = _forbidden(draw, vocab)
    if forbidden:
        x[torch.tensor(forbidden, device=x.device)] = -torch.inf
    if draw.mask is not None:
        words = -(-vocab // 32)
        if draw.mask.size != words:
            return "invalid", f"the mask has {draw.mask.size} words; {vocab} tokens take {words}"
        bits = np.unpackbits(np.ascontiguousarray(draw.mask, dtype="<u4").view(np.uint8), bitorder="little")
        x.masked_fill_(torch.from_numpy(bits[:vocab] == 0).to(x.device), -torch.inf)
    if (forbidden or draw.mask is not None) and not bool((x > -torch.inf).any()):
        return "no_token", "every token of the vocabulary is masked"
    return None


def _penalize(x: torch.Tensor, draw: Draw) -> bool:
    """Steps 2 and 3 on one row, in place; whether anything changed."""
    params = draw.params
    repetition = params.repetition_penalty != 1
    counted = (params.frequency_penalty != 0 or params.presence_penalty != 0) and len(draw.output) > 0
    if repetition:
        seen = np.unique(np.concatenate([draw.prompt, draw.output]).astype(np.int64))
        ids = torch.from_numpy(seen).to(x.device)
        values = x[ids]
        penalty = torch.tensor(params.repetition_penalty, dtype=torch.float32, device=x.device)
        x[ids] = torch.where(values > 0, values / penalty, values * penalty)
    if counted:
        produced, counts = np.unique(draw.output.astype(np.int64), return_counts=True)
        frequency = counts.astype(np.float32) * np.float32(params.frequency_penalty)
        ids = torch.from_numpy(produced).to(x.device)
        x[ids] = (
            x[ids] - torch.from_numpy(frequency).to(x.device) - float(np.float32(params.presence_penalty))
        )
    return repetition or counted


def _forbidden(draw: Draw, vocab: int) -> list[int]:
    """Tokens that min_tokens and bad words mask now."""
    params = draw.params
    tokens: list[int] = []
    if len(draw.output) < params.min_tokens:
        tokens += [*draw.eos, *params.stop_token_ids]
    for word in params.bad_words:
        if word and _ends_with(draw, word[:-1]):
            tokens.append(word[-1])
    return [token for token in tokens if 0 <= token < vocab]


def _ends_with(draw: Draw, tail: tuple[int, ...]) -> bool:
    if len(tail) > len(draw.prompt) + len(draw.output):
        return False
    for back, token in enumerate(reversed(tail), start=1):
        in_output = back <= len(draw.output)
        latest = draw.output[-back] if in_output else draw.prompt[len(draw.output) - back]
        if int(latest) != token:
            return False
    return True


def _draw(x: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
    """Steps 7 to 11 for processed rows [n, vocab]."""
    device = x.device
    params = [draw.params for draw in draws]

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)[:, None]

    hidden = _below_top_k(x, [p.top_k for p in params])
    if hidden is not None:
        x = x.masked_fill(hidden, -torch.inf)
    best = x.amax(dim=-1, keepdim=True)
    weights = torch.exp((x.double() - best.double()) / column([p.temperature for p in params]))
    keep_below = _below_top_p(x, weights, [p.top_p for p in params])
    if any(p.min_p > 0 for p in params):
        small = weights < column([p.min_p for p in params])
        weights = weights.masked_fill(small, 0)
    if keep_below is not None:
        weights = weights.masked_fill(x < keep_below, 0)
    edges = torch.cumsum(weights, dim=-1)
    u = uniforms([draw.seed for draw in draws], [len(draw.output) for draw in draws])
    target = torch.from_numpy(u).to(device)[:, None] * edges[:, -1:]
    index = torch.searchsorted(edges, target, right=True)[:, 0]
    tokens: list[int] = index.tolist()
    for i, token in enumerate(tokens):
        if token >= x.shape[1]:  # u * total was rounded up to the total: the last kept token
            tokens[i] = int(torch.nonzero(weights[i])[-1, 0])
    return tokens


def _below_top_k(x: torch.Tensor, top_k: Sequence[int]) -> torch.Tensor | None:
    """Step 7: what is less than the k-th highest value, [n, vocab]; None where no row limits."""
    vocab = x.shape[1]
    limits = [k if 0 < k < vocab else 0 for k in top_k]
    widest = max(limits)
    if widest == 0:
        return None
    values = torch.topk(x, widest, dim=-1).values
    kth = torch.tensor([max(k, 1) - 1 for k in limits], device=x.device)[:, None]
    threshold = values.gather(1, kth)
    free = torch.tensor([k == 0 for k in limits], device=x.device)[:, None]
    return x < threshold.masked_fill(free, -torch.inf)


def _below_top_p(x: torch.Tensor, weights: torch.Tensor, top_p: Sequence[float]) -> torch.Tensor | None:
    """Step 9: the value [n, 1] under which tokens are dropped; None where no row limits."""
    if all(p >= 1 for p in top_p):
        return None
    limit = torch.tensor(top_p, dtype=torch.float64, device=x.device)[:, None]
    total = weights.sum(dim=-1, keepdim=True)
    for width in (min(_CANDIDATES, x.shape[1]), x.shape[1]):
        values, order = torch.topk(x, width, dim=-1)
        mass = torch.cumsum(weights.gather(1, order), dim=-1)
        ahead = torch.cat((torch.zeros_like(mass[:, :1]), mass[:, :-1]), dim=-1)  # what is more likely
        reached = (mass[:, -1:] >= limit * total) | (limit >= 1)
        if width == x.shape[1] or bool(reached.all()):
            break
    last = (ahead < limit * total).sum(dim=-1, keepdim=True) - 1
    threshold = values.gather(1, last)
    return threshold.masked_fill(limit >= 1, -torch.inf)


def token_logprobs(logits: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[TokenLogprob]:
    """Log probability and rank of `tokens[i]` under raw logits [n, vocab], with the `counts[i]` best alternatives."""
    device, vocab = logits.device, logits.shape[1]
    log_total = torch.logsumexp(logits.double(), dim=-1)
    ids = torch.tensor(tokens, dtype=torch.int64, device=device)[:, None]
    own = logits.gather(1, ids)
    places = torch.arange(vocab, device=device)[None, :]
    ahead = (logits > own) | ((logits == own) & (places < ids))
    ranks = (ahead.sum(dim=-1) + 1).tolist()
    chosen = (own[:, 0].double() - log_total).tolist()
    width = min(max(counts, default=0), vocab)
    tops: list[list[tuple[int, float]]] = [[] for _ in tokens]
    if width:
        tops = _tops(logits, log_total, width)
    return [
        TokenLogprob(token=int(token), logprob=chosen[i], rank=ranks[i], top=tuple(tops[i][: counts[i]]))
        for i, token in enumerate(tokens)
    ]


def _tops(logits: torch.Tensor, log_total: torch.Tensor, width: int) -> list[list[tuple[int, float]]]:
    """The `width` best of every row, by descending logit, then by ascending id."""
    kth = torch.topk(logits, width, dim=-1).values[:, -1]
    tops = []
    for i in range(logits.shape[0]):
        ids = torch.nonzero(logits[i] >= kth[i])[:, 0]  # ascending; ties with the last one too
        order = torch.argsort(logits[i][ids], descending=True, stable=True)[:width]
        best = ids[order]
        values = logits[i][best].double() - log_total[i]
        tops.append(list(zip(best.tolist(), values.tolist(), strict=True)))
    return tops
