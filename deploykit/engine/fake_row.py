"""One use of a row of the fake runner: its part of the token pool, its block table and where it stands."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deploykit.engine.fake_kv import FakeKV
from deploykit.engine.fake_model import FakeModel
from deploykit.engine.sampling import Sampled, SamplingError, is_plain_greedy, sample_row, token_logprob
from deploykit.engine.types import Admit, Finish, TokenLogprob, Want, unpack

# Plain integers: an IntFlag's operators cost a microsecond each.
SAMPLE, DEFERRED, PROMPT_LOGPROBS = int(Want.SAMPLE), int(Want.DEFERRED), int(Want.PROMPT_LOGPROBS)
_UNSUPPORTED = int(Want.SCORE | Want.POOL)
_UNREAD = -1  # the model's state is still to be computed from the KV


class FakeRow:
    """Raises SamplingError, with the code and the reason of a `RowFailure`, where the row can't go on."""

    def __init__(self, admit: Admit, model: FakeModel, kv: FakeKV) -> None:
        self.epoch = admit.epoch
        self.tokens: list[int] = unpack(admit.tokens).tolist()  # all it knows
        self.prompt_len = admit.prompt_len
        self.computed = admit.computed
        self.limit = admit.limit
        self.params = admit.sampling
        self.seed = admit.seed
        self.eos = admit.eos_token_ids
        self.stops = frozenset((*admit.eos_token_ids, *admit.sampling.stop_token_ids))
        self.plain = is_plain_greedy(admit.sampling) and admit.sampling.logprobs is None
        self.table: list[int] = []
        self.done = False  # ended or failed
        self._model = model
        self._kv = kv
        self._state = _UNREAD  # the model's after `computed` tokens
        self._problem = _problem(admit, self.tokens, model.vocab_size)

    def forward(self, num_tokens: int, flags: int) -> tuple[TokenLogprob, ...]:
        """Compute the next `num_tokens` tokens; log probabilities of the prompt tokens that follow them."""
        start, end = self.computed, self.computed + num_tokens
        self._check(start, end, flags)
        model, put, table, tokens = self._model, self._kv.put, self.table, self.tokens
        state = self._state
        if state == _UNREAD:
            state = model.start
            for token in self._kv.read(table, start).tolist():
                state = model.advance(state, token)
        scores: list[TokenLogprob] = []
        scored_until = self.prompt_len - 1 if flags & PROMPT_LOGPROBS else 0
        for position in range(start, end):
            state = model.advance(state, put(table, position, tokens[position]))
            if position < scored_until:
                k = self.params.prompt_logprobs or 0
                scores.append(token_logprob(model.logits(state), tokens[position + 1], k))
        self._state, self.computed = state, end
        return tuple(scores)

    def _check(self, start: int, end: int, flags: int) -> None:
        if self._problem is not None:
            raise SamplingError(*self._problem)
        if flags & _UNSUPPORTED:
            raise SamplingError("unsupported", "the fake runner neither scores nor pools")
        known = len(self.tokens)
        if end > known or (flags & SAMPLE and end < known):
            raise SamplingError(
                "invalid", f"positions {start} to {end}, flags {flags}: the row knows {known}"
            )
        if end > len(self.table) * self._kv.block_len:
            raise SamplingError(
                "invalid", f"position {end - 1} has no block: the table has {len(self.table)}"
            )
        if self._kv.check:
            fault = self._kv.fault(self.table, self.tokens, start, end)
            if fault is not None:
                raise SamplingError("kv_mismatch", fault)
            self._state = _UNREAD

    def sample(
        self, flags: int, mask: npt.NDArray[np.uint32] | None, iterations: int
    ) -> tuple[list[Sampled], Finish]:
        """Draw the next token, and more where the step iterates; how the row stands after the last."""
        deferred = bool(flags & DEFERRED)
        if deferred and mask is None:
            raise SamplingError("invalid", "the row is deferred and no mask came for it")
        drawn = [self._draw(mask)]
        # The mask of a deferred row's next token is not known yet, so it draws one token a step.
        while not self.done and len(drawn) < iterations and not deferred:
            self.forward(1, SAMPLE)
            drawn.append(self._draw(None))
        if not self.done:
            return drawn, Finish.NONE
        return drawn, Finish.STOP if drawn[-1].token in self.stops else Finish.LENGTH

    def _draw(self, mask: npt.NDArray[np.uint32] | None) -> Sampled:
        if len(self.tokens) >= self.limit:
            raise SamplingError("invalid", f"the row is at its limit of {self.limit} tokens")
        if self.plain and mask is None:
            sampled = Sampled(self._model.greedy(self._state), None)
        else:
            sampled = sample_row(
                self._model.logits(self._state),
                self.params,
                seed=self.seed,
                prompt_ids=self.tokens[: self.prompt_len],
                output_ids=self.tokens[self.prompt_len :],
                eos_ids=self.eos,
                mask=mask,
            )
        self.tokens.append(sampled.token)
        self.done = sampled.token in self.stops or len(self.tokens) >= self.limit
        return sampled


def _problem(admit: Admit, tokens: list[int], vocab_size: int) -> tuple[str, str] | None:
    """Why a row can't run at all, as (code, reason)."""
    if admit.adapter is not None or admit.spans or admit.positions is not None:
        return "unsupported", "the fake runner has neither adapters nor images nor positions of their own"
    if not 0 <= admit.computed < len(tokens) or not 0 < admit.prompt_len <= len(tokens):
        return (
            "invalid",
            f"{admit.computed} computed, {admit.prompt_len} prompt and {len(tokens)} known tokens",
        )
    if min(tokens) < 0 or max(tokens) >= vocab_size:
        return "invalid", f"a token id is outside the vocabulary of {vocab_size}"
    return None
