"""What a pipe answers: a response for each prompt, or its text in chunks as it comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from deploykit.engine.types import TokenLogprob

if TYPE_CHECKING:
    from deploykit.pipe.errors import GenerationError
    from deploykit.pipe.session import Session

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer to a prompt."""

    text: str
    token_ids: tuple[int, ...]
    """Every token that was drawn, the one that ended the answer too."""
    finish_reason: FinishReason
    """stop: an end token, a stop token id or a stop word; length: max_new_tokens or the session's end; error."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each token that is part of the text: token, logprob, rank and top [(token id, logprob)]."""

    @property
    def generate_token_len(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to one prompt. `text` and its like are those of the first of the `n` choices."""

    index: int
    """Which prompt of the batch it answers."""
    choices: tuple[Choice, ...]
    input_token_len: int
    cached_tokens: int
    """Prompt tokens whose KV was there already and was not computed again."""
    error: GenerationError | None = None
    """Why this prompt of a batch has no whole answer; what came before the error is in `choices`."""
    session: Session | None = field(default=None, compare=False, repr=False)
    """The conversation that this answer belongs to (`Pipeline.chat`)."""

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        return self.choices[0].logprobs

    @property
    def generate_token_len(self) -> int:
        return self.choices[0].generate_token_len


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is new of one answer in a stream. `finish_reason` is set on the answer's last chunk."""

    index: int
    """Which prompt of the batch."""
    choice: int
    """Which of its `n` answers."""
    text: str
    """New text; empty where a token's text is held back or there is none."""
    token_ids: tuple[int, ...]
    """New tokens."""
    generate_token_len: int
    """Tokens of this answer so far."""
    input_token_len: int
    cached_tokens: int
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    error: GenerationError | None = None
    """With finish_reason "error": why this prompt of a batch has no whole answer."""
