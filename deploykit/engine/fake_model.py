"""A language model that is a hash: the next token is a pure function of the tokens before it, and costs nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_START = 0x243F6A8885A308D3
_MULTIPLY, _ADD, _FINISH = 0x5851F42D4C957F2D, 0x14057B7EF767814F, 0x9E3779B97F4A7C15
EOS_EVERY = 4096  # one position in so many wants to end, so that generations usually run to their length
BEST = 10.0  # the most likely token's logit; all others lie in [-8, 8)


class FakeModel:
    """`state` stands for all tokens so far: 64 bits, advanced token by token from `start`."""

    start = _START

    def __init__(self, vocab_size: int, eos_token_ids: tuple[int, ...] = ()) -> None:
        self.vocab_size = vocab_size
        self._eos = tuple(t for t in eos_token_ids if 0 <= t < vocab_size)
        self._ids = [i for i in range(vocab_size) if i not in self._eos] or list(range(vocab_size))
        self._spread = np.arange(1, vocab_size + 1, dtype=np.uint32) * np.uint32(2654435761)

    def advance(self, state: int, token: int) -> int:
        """The state after one more token."""
        return ((state ^ token) * _MULTIPLY + _ADD) & _MASK

    def greedy(self, state: int) -> int:
        """The most likely next token, without materialising logits; equal to their argmax."""
        x = (((state ^ state >> 29) * _FINISH) & _MASK) >> 20  # the upper bits are the well mixed ones
        if self._eos and x % EOS_EVERY == 0:
            return self._eos[0]
        return self._ids[(x >> 12) % len(self._ids)]

    def logits(self, state: int) -> npt.NDArray[np.float32]:
        """float32[vocab_size]: noise in [-8, 8), EOS ids at the bottom, the greedy token at the top."""
        mixed = (self._spread ^ np.uint32(state >> 32)) * np.uint32(2246822519)
        mixed ^= mixed >> np.uint32(15)
        mixed *= np.uint32(3266489917)
        x = (mixed >> np.uint32(8)).astype(np.float32) * np.float32(16 / 2**24) - np.float32(8)
        if self._eos:
            x[list(self._eos)] = -8.0
        x[self.greedy(state)] = BEST
        return x
