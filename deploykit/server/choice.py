"""The text side of one sequence: tokens in, text with its log probabilities out, stop strings held back."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from deploykit.engine.protocol import Output
from deploykit.engine.types import TokenLogprob, unpack
from deploykit.prompt.detokenize import Detokenizer
from deploykit.prompt.stops import StopMatcher
from deploykit.prompt.tokenizer import Tokenizer


class LogprobEntry(NamedTuple):
    """A token's log probabilities, and where its text begins in the answer (characters)."""

    offset: int
    values: TokenLogprob


class Delta(NamedTuple):
    """What is new of choice number `choice`. `finish` is set on its last delta.

    `token_ids` are all tokens that were taken, those without text (an end of sequence) too.
    """

    choice: int
    text: str = ""
    logprobs: tuple[LogprobEntry, ...] = ()
    finish: str | None = None
    token_ids: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.token_ids)


class Choice:
    """One sequence's text. Tokens that come after its end (a stop string ended it here) are dropped."""

    __slots__ = (
        "_detokenizer",
        "_entries",
        "_length",
        "_matcher",
        "_min_tokens",
        "_sent",
        "finished",
        "index",
        "num_tokens",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        index: int,
        stops: Sequence[str],
        min_tokens: int = 0,
        *,
        skip_special: bool = True,
    ) -> None:
        self.index = index
        self.finished = False
        self.num_tokens = 0
        self._detokenizer = Detokenizer(tokenizer, skip_special=skip_special)
        self._matcher = StopMatcher(stops)
        self._min_tokens = min_tokens
        self._length = 0  # characters decoded
        self._sent = 0  # characters given out; the rest could still become a stop string
        self._entries: deque[LogprobEntry] = deque()

    def push(self, output: Output) -> Delta | None:
        """Take an output of the engine; None where nothing is to be told to the client."""
        if self.finished:
            return None
        tokens = unpack(output.tokens).tolist()
        last = len(tokens) - 1
        before = self.num_tokens
        text = ""
        for position, token in enumerate(tokens):
            self.num_tokens += 1
            if output.stop_token and position == last:
                break  # an end of sequence, no text
            piece = self._detokenizer.push(token)
            if output.logprobs:
                self._entries.append(LogprobEntry(self._length, output.logprobs[position]))
            self._length += len(piece)
            text += self._match(piece)
            if self._matcher.matched is not None:
                break
        finish: str | None = None
        if self._matcher.matched is not None:
            finish = "stop"
        elif output.finish is not None:
            text += self._match(self._detokenizer.finish())
            text += self._matcher.flush()
            finish = "stop" if self._matcher.matched is not None else output.finish
        self._sent += len(text)
        self.finished = finish is not None
        taken = tuple(tokens[: self.num_tokens - before])
        return Delta(self.index, text, self._take_entries(), finish, taken)

    def _match(self, piece: str) -> str:
        if self.num_tokens <= self._min_tokens:
            return piece  # a stop string may not end the answer yet
        return self._matcher.push(piece)

    def _take_entries(self) -> tuple[LogprobEntry, ...]:
        """Entries of tokens whose text is out; at the end, of all but those of the stop string."""
        if not self._entries:
            return ()
        taken: list[LogprobEntry] = []
        end_without_stop = self.finished and self._matcher.matched is None
        while self._entries and (end_without_stop or self._entries[0].offset < self._sent):
            taken.append(self._entries.popleft())
        return tuple(taken)
