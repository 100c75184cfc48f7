"""Row state: the token pool, block tables and lengths of the requests that run, as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from deploykit.engine.types import Admit, Extend, Int32Array, Release, RunnerError, SamplingParams, unpack


@dataclass(slots=True)
class Request:
    """What a row was admitted with."""

    epoch: int
    prompt_len: int
    limit: int
    sampling: SamplingParams
    seed: int
    eos: tuple[int, ...]
    stop: frozenset[int]  # ids that end the row
    failure: tuple[str, str] | None = None  # (code, reason): the row can't be served
    finished: bool = False
    plain: bool = field(default=False)  # greedy without penalties, bias, masks


class RowTable:
    """Rows of running requests. `computed <= known <= limit` for each, counted in tokens."""

    def __init__(self, max_rows: int, session_len: int, block_len: int) -> None:
        self.max_rows = max_rows
        self.session_len = session_len
        self.block_len = block_len
        self.tokens = np.zeros((max_rows, session_len), dtype=np.int32)
        self.blocks = np.zeros((max_rows, -(-session_len // block_len)), dtype=np.int32)
        self.num_blocks = np.zeros(max_rows, dtype=np.int32)
        self.computed = np.zeros(max_rows, dtype=np.int32)
        self.known = np.zeros(max_rows, dtype=np.int32)
        self.requests: list[Request | None] = [None] * max_rows

    def request(self, row: int, epoch: int) -> Request | None:
        """The row's request if it is still in this epoch."""
        if not 0 <= row < self.max_rows:
            raise RunnerError(f"row {row} does not exist: the runner has {self.max_rows}")
        request = self.requests[row]
        return request if request is not None and request.epoch == epoch else None

    def running(self, row: int) -> Request:
        """The request that has the row now."""
        request = self.requests[row]
        if request is None:
            raise RunnerError(f"row {row} is free")
        return request

    def release(self, release: Release) -> None:
        """End a row's use; a second time, or after the row was taken again, does nothing."""
        if self.request(release.row, release.epoch) is not None:
            self.requests[release.row] = None
            self.num_blocks[release.row] = 0

    def admit(self, admit: Admit) -> None:
        """Take a row. Raises RunnerError where the step contradicts itself."""
        tokens = unpack(admit.tokens)
        known = len(tokens)
        if not 0 <= admit.row < self.max_rows or self.requests[admit.row] is not None:
            raise RunnerError(f"row {admit.row} is not free")
        if not 0 < known <= self.session_len or not 0 <= admit.computed < known:
            raise RunnerError(
                f"row {admit.row}: {admit.computed} computed of {known} known tokens, session {self.session_len}"
            )
        sampling = admit.sampling
        self.requests[admit.row] = Request(
            epoch=admit.epoch,
            prompt_len=admit.prompt_len,
            limit=min(admit.limit, self.session_len),
            sampling=sampling,
            seed=admit.seed,
            eos=admit.eos_token_ids,
            stop=frozenset(admit.eos_token_ids) | frozenset(sampling.stop_token_ids),
            failure=_unsupported(admit),
            plain=is_plain(sampling),
        )
        self.tokens[admit.row, :known] = tokens
        self.known[admit.row] = known
        self.computed[admit.row] = admit.computed
        self.num_blocks[admit.row] = 0

    def extend(self, extend: Extend) -> None:
        """Append blocks to a row's table."""
        if extend.group != 0:
            raise RunnerError(f"group {extend.group} does not exist: the pytorch engine has one")
        if self.request(extend.row, extend.epoch) is None:
            return  # the row is gone; whoever planned this did not know yet
        start = int(self.num_blocks[extend.row])
        end = start + len(extend.blocks)
        if end > self.blocks.shape[1]:
            raise RunnerError(f"row {extend.row}: {end} blocks are more than a session has")
        self.blocks[extend.row, start:end] = extend.blocks
        self.num_blocks[extend.row] = end

    def append(self, row: int, token: int) -> None:
        """A drawn token becomes known."""
        known = int(self.known[row])
        if known < self.session_len:
            self.tokens[row, known] = token
            self.known[row] = known + 1

    def prompt(self, row: int) -> Int32Array:
        return self.tokens[row, : self.running(row).prompt_len]

    def output(self, row: int) -> Int32Array:
        return self.tokens[row, self.running(row).prompt_len : int(self.known[row])]


def is_plain(params: SamplingParams) -> bool:
    """The token is the argmax of the raw logits (and nothing else is asked)."""
    return (
        params.temperature == 0
        and params.repetition_penalty == 1
        and params.frequency_penalty == 0
        and params.presence_penalty == 0
        and params.min_tokens == 0
        and not params.logit_bias
        and not params.bad_words
        and params.logprobs is None
    )


def _unsupported(admit: Admit) -> tuple[str, str] | None:
    """What this engine can't do for a request, as a row's failure."""
    for value, name in (
        (admit.adapter, "adapters (LoRA)"),
        (admit.grammar, "grammars"),
        (admit.spans or None, "images"),
        (admit.positions, "explicit positions"),
    ):
        if value is not None:
            return "unsupported", f"the pytorch engine does not serve {name} yet"
    return None
