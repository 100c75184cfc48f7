"""Log probabilities of known tokens: prompt log probabilities, echo, scoring."""

from __future__ import annotations

import torch

from deploykit.engine.pytorch.model import LanguageModel
from deploykit.engine.pytorch.rows import RowTable
from deploykit.engine.pytorch.sampler import token_logprobs
from deploykit.engine.types import TokenLogprob

_SLICE = 32  # positions whose logits exist at once


def prompt_logprobs(
    model: LanguageModel, table: RowTable, row: int, hidden: torch.Tensor, score: bool
) -> tuple[TokenLogprob, ...]:
    """Of the token after each of the chunk's positions, where that is a prompt token (with `score`: a known one).

    `hidden` [n, hidden] are the chunk's states; the row's computed count already includes the chunk.
    """
    request = table.running(row)
    end = int(table.computed[row])
    start = end - hidden.shape[0]
    stop = min(end, (int(table.known[row]) if score else request.prompt_len) - 1)
    k = request.sampling.prompt_logprobs or 0
    found: list[TokenLogprob] = []
    for at in range(start, stop, _SLICE):
        upto = min(at + _SLICE, stop)
        logits = model.logits(hidden[at - start : upto - start])
        following = table.tokens[row, at + 1 : upto + 1].tolist()
        found += token_logprobs(logits, following, [k] * len(following))
    return tuple(found)
