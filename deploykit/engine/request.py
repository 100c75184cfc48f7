"""A request and its sequences as the scheduler sees them: three lengths and the blocks behind them."""

from __future__ import annotations

import dataclasses

from deploykit.engine.blocks import PrefixKey
from deploykit.engine.types import SamplingParams


@dataclasses.dataclass(eq=False, slots=True)
class Request:
    """One `Submit`: `n` sequences over one prompt."""

    key: tuple[int, str]  # (connection, id)
    sampling: SamplingParams
    root: PrefixKey
    arrival: int
    priority: int = 0
    deadline: float | None = None  # time.monotonic()
    sequences: list[Sequence] = dataclasses.field(default_factory=list)

    @property
    def unfinished(self) -> bool:
        return any(not s.finished for s in self.sequences)


@dataclasses.dataclass(eq=False, slots=True)
class Sequence:
    """`computed <= known <= limit`. `known` counts tokens that are still in flight, `tokens` only collected ones."""

    request: Request
    index: int
    seed: int
    prompt_len: int
    limit: int
    eos_token_ids: tuple[int, ...]
    tokens: list[int]  # prompt, then collected output
    known: int
    computed: int = 0  # positions whose KV is computed by launched steps
    settled: int = 0  # positions whose KV is computed by collected steps
    blocks: list[int] = dataclasses.field(default_factory=list)
    keys: list[PrefixKey] = dataclasses.field(default_factory=list)  # of the leading full, settled blocks
    row: int = -1  # -1: waiting
    chunks: int = 0  # steps that have read of its prompt since it has its row
    epoch: int = 0
    finished: bool = False
    started: bool = False  # the first output went out
    cached_tokens: int = 0  # prompt tokens of the first admission that came from the prefix cache
    prompt_logprobs_done: int = 0  # prompt positions whose log probabilities went out
    score_only: bool = False  # max_tokens is 0: the prompt is computed and nothing is drawn

    def __post_init__(self) -> None:
        self.score_only = self.limit == self.prompt_len

    @property
    def pending(self) -> int:
        """Tokens whose KV is not computed yet."""
        return self.known - self.computed

    @property
    def order(self) -> tuple[int, int, int]:
        """Who goes first; the last in this order is preempted first."""
        return (self.request.priority, self.request.arrival, self.index)

    @property
    def wants_prompt_logprobs(self) -> bool:
        return (
            self.request.sampling.prompt_logprobs is not None
            and self.prompt_logprobs_done < self.prompt_len - 1
        )
