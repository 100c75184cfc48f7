"""A conversation: its messages, and the tokens behind them, so that a turn computes only what is new."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deploykit.pipe.errors import GenerationError
from deploykit.pipe.generation_config import GenerationConfig
from deploykit.pipe.prompts import Prompt, Prompter, as_messages
from deploykit.pipe.response import Response
from deploykit.prompt.shield import Piece
from deploykit.server.generation import Job


@dataclass(frozen=True)
class Turn:
    """A turn under way: nothing of it is in the session until it is answered."""

    messages: list[dict[str, Any]]
    text: str  # of the prompt
    job: Job


class Session:
    """A conversation with one model, for `Pipeline.chat`. Turns come one after the other.

    The tokens of the turns before are kept as the model wrote them. The chat template is rendered for the whole
    conversation each time; where its text goes on from what stands there, only the rest is tokenized, and the prefix
    cache serves everything before it. A template that rewrites earlier turns gets its way, and less is reused.
    """

    def __init__(self, messages: Sequence[dict[str, Any]] = ()) -> None:
        """`messages` (OpenAI's) come before the first turn: a system message, an earlier conversation."""
        self.messages: list[dict[str, Any]] = [dict(message) for message in messages]
        self._busy = threading.Lock()
        self._prompter: Prompter | None = None  # whose tokens these are
        self._ids: list[int] = []  # of everything up to the end of the last answer
        self._text = ""  # the same as text; empty where the two don't belong together

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Raises GenerationError where another turn is under way."""
        if not self._busy.acquire(blocking=False):
            raise GenerationError(
                "session_busy",
                "this conversation's last turn is still being answered",
                fix="wait for it, or take a Session for each conversation",
            )
        try:
            yield
        finally:
            self._busy.release()

    def prepare(self, prompt: Prompt, prompter: Prompter, config: GenerationConfig) -> Turn:
        """The next turn's job. Raises GenerationError."""
        messages = [*self.messages, *as_messages(prompt)]
        rendered = prompter.render(messages, config)
        text = "".join(piece.text for piece in rendered.pieces)
        tokenizer = prompter.service.tokenizer
        if self._prompter is prompter and self._text and text.startswith(self._text):
            rest = _after(rendered.pieces, len(self._text))
            ids = [*self._ids, *tokenizer.encode_pieces(rest, continued=True)]
        else:
            ids = tokenizer.encode_pieces(rendered.pieces)
        return Turn(messages, text, prompter.job_of(rendered, ids))

    def commit(self, turn: Turn, response: Response, prompter: Prompter, eos_ids: Sequence[int]) -> None:
        """The turn is answered."""
        self.messages = [*turn.messages, {"role": "assistant", "content": response.text}]
        drawn = list(response.token_ids)
        ends = drawn and drawn[-1] in (*eos_ids, *turn.job.sampling.stop_token_ids)
        if ends and response.finish_reason == "stop":
            drawn.pop()  # its text is the template's to write
        elif response.finish_reason == "stop":
            drawn = []  # a stop word ended it: tokens of it were drawn that the answer doesn't have
        whole = bool(drawn) and turn.job.skip_special
        self._prompter = prompter
        self._ids = [*turn.job.prompts[0], *drawn] if whole else []
        self._text = turn.text + response.text if whole else ""


def _after(pieces: Sequence[Piece], length: int) -> list[Piece]:
    """The pieces without the first `length` characters."""
    rest: list[Piece] = []
    for piece in pieces:
        if length < len(piece.text):
            rest.append(Piece(piece.text[length:], piece.literal))
        length = max(0, length - len(piece.text))
    return rest
