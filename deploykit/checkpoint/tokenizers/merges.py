"""From a ranked vocabulary to the merges that give the same tokens.

SentencePiece's BPE and tiktoken keep no merges: of all neighbouring parts they join those whose union ranks best, the
leftmost of equals. The `tokenizers` library wants pairs. What makes this exact: while a token is being put together
nothing outside it takes part, so it always comes out of the same two last parts, those of the token encoded alone.
One pair a token is therefore all that is ever used, and the pairs in the order of their tokens' ranks do the same.

Tokens of equal rank (real vocabularies give one score to all runs of spaces) go by place, which pairs can't say: the
longest first makes a run grow from the left as it does there.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

MAX_WORK = 300_000_000  # squared characters, over all tokens: about 20 s; real vocabularies need a hundredth


class TooMuchWork(ValueError):
    """The tokens are longer than any real vocabulary's."""


def merges_of(ranks: Mapping[str, float], parts: Collection[str]) -> list[tuple[str, str]]:
    """Pairs that make the tokens of `ranks` (lower is merged earlier), in order; both sides are in `parts`.

    Tokens that no sequence of merges reaches have none. Raises TooMuchWork.
    """
    found: list[tuple[float, int, int, tuple[str, str]]] = []
    work = 0
    for position, (token, rank) in enumerate(ranks.items()):
        n = len(token)
        if n < 2:
            continue
        work += n * n
        if work > MAX_WORK:
            raise TooMuchWork(f"the tokens of the vocabulary are too long ({n} characters, and many of them)")
        splits = [i for i in range(1, n) if token[:i] in parts and token[i:] in parts]
        if not splits:
            continue
        pair = (token[: splits[0]], token[splits[0] :]) if len(splits) == 1 else _last_parts(token, ranks)
        if pair is not None and pair[0] in parts and pair[1] in parts:
            found.append((rank, -n, position, pair))
    found.sort()
    return [pair for *_, pair in found]


def _last_parts(token: str, ranks: Mapping[str, float]) -> tuple[str, str] | None:
    """The two parts that a token is made of last, when it is encoded alone; None where it is never made."""
    parts = list(token)
    pairs = [ranks.get(a + b) for a, b in itertools.pairwise(parts)]
    while len(parts) > 2:
        best: float | None = None
        at = -1
        for i, rank in enumerate(pairs):
            if rank is not None and (best is None or rank < best):
                best, at = rank, i
        if at < 0:
            return None
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del pairs[at]
        if at:
            pairs[at - 1] = ranks.get(parts[at - 1] + parts[at])
        if at < len(pairs):
            pairs[at] = ranks.get(parts[at] + parts[at + 1])
    return parts[0], parts[1]
