"""The prompts of one call at work: what they give is collected here, in the order of the prompts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future

from deploykit.engine.types import TokenLogprob
from deploykit.pipe.core import Core
from deploykit.pipe.errors import GenerationError
from deploykit.pipe.response import Choice, Chunk, FinishReason, Response
from deploykit.pipe.session import Session
from deploykit.server.choice import Delta
from deploykit.server.generation import Generation, Job

OnChunk = Callable[[Chunk], None]
_CANCEL_S = 5.0  # seconds


class _Growing:
    """One answer so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish: FinishReason | None = None


class Answer:
    """The answers to one prompt, filled by the loop's thread."""

    def __init__(self, index: int, n: int, *, logprobs: bool) -> None:
        self.index = index
        self.error: GenerationError | None = None
        self.ended = False
        self.input_token_len = 0
        self.cached_tokens = 0
        self.num_tokens = 0
        self._choices = [_Growing() for _ in range(n)]
        self._logprobs = logprobs

    def take(self, generation: Generation, delta: Delta) -> Chunk:
        self.cached_tokens = generation.usage.cached_tokens
        self.num_tokens += delta.tokens
        choice = self._choices[delta.choice]
        choice.texts.append(delta.text)
        choice.token_ids += delta.token_ids
        logprobs = tuple(entry.values for entry in delta.logprobs)
        choice.logprobs += logprobs
        choice.finish = _finish(delta.finish)
        return Chunk(
            index=self.index,
            choice=delta.choice,
            text=delta.text,
            token_ids=delta.token_ids,
            generate_token_len=len(choice.token_ids),
            input_token_len=self.input_token_len,
            cached_tokens=self.cached_tokens,
            finish_reason=choice.finish,
            logprobs=logprobs if self._logprobs else None,
        )

    def last_chunks(self) -> list[Chunk]:
        """What tells a stream's reader of an error."""
        return [
            Chunk(
                index=self.index,
                choice=number,
                text="",
                token_ids=(),
                generate_token_len=len(choice.token_ids),
                input_token_len=self.input_token_len,
                cached_tokens=self.cached_tokens,
                finish_reason="error",
                error=self.error,
            )
            for number, choice in enumerate(self._choices)
            if choice.finish is None
        ]

    def response(self, session: Session | None = None) -> Response:
        choices = tuple(
            Choice(
                text="".join(choice.texts),
                token_ids=tuple(choice.token_ids),
                finish_reason=choice.finish or "error",
                logprobs=tuple(choice.logprobs) if self._logprobs else None,
            )
            for choice in self._choices
        )
        return Response(
            index=self.index,
            choices=choices,
            input_token_len=self.input_token_len,
            cached_tokens=self.cached_tokens,
            error=self.error,
            session=session,
        )


class Work:
    """Prompts that are submitted one after the other and answered at once. `finished` resolves when all have ended."""

    def __init__(
        self, core: Core, total: int, *, n: int, logprobs: bool, on_chunk: OnChunk | None = None
    ) -> None:
        self.answers = [Answer(index, n, logprobs=logprobs) for index in range(total)]
        self.finished: Future[None] = Future()
        self._core = core
        self._on_chunk = on_chunk
        self._lock = threading.Lock()
        self._left = total
        self._cancels: dict[int, Callable[[], None]] = {}
        self._cancelled = False
        if total == 0:
            self.finished.set_result(None)

    def add(self, index: int, make_job: Callable[[], Job]) -> None:
        """Submit a prompt; one that can't be served ends with its error, and the others go on."""
        answer = self.answers[index]
        try:
            job = make_job()
        except GenerationError as error:
            self._end(answer, error)
            return
        answer.input_token_len = len(job.prompts[0])

        def on_delta(generation: Generation, delta: Delta) -> None:
            chunk = answer.take(generation, delta)
            if self._on_chunk is not None:
                self._on_chunk(chunk)

        cancel = self._core.start(job, on_delta, lambda error: self._end(answer, error))
        with self._lock:
            self._cancels[index] = cancel
            if not self._cancelled:
                return
        cancel()

    def cancel(self) -> None:
        """End what runs and what hasn't begun; `finished` resolves when the engine has been told."""
        with self._lock:
            self._cancelled = True
            cancels = list(self._cancels.values())
            waiting = [answer for answer in self.answers if answer.index not in self._cancels]
        for cancel in cancels:
            cancel()
        for answer in waiting:
            self._end(answer, GenerationError("cancelled", "the call was cancelled"))

    def cancel_and_wait(self) -> None:
        """For a thread that may wait until the engine has been told; nothing happens where all has ended."""
        if not self.finished.done():
            self.cancel()
            with contextlib.suppress(TimeoutError):  # the loop is busy; what runs ends when it hears
                self.finished.result(_CANCEL_S)

    @property
    def num_ended(self) -> int:
        return len(self.answers) - self._left

    @property
    def num_tokens(self) -> int:
        return sum(answer.num_tokens for answer in self.answers)

    def result(self, *, single: bool) -> Response | list[Response]:
        """When all has ended. Raises GenerationError where a single prompt failed."""
        if not single:
            return [answer.response() for answer in self.answers]
        if (error := self.answers[0].error) is not None:
            raise error
        return self.answers[0].response()

    def _end(self, answer: Answer, error: GenerationError | None) -> None:
        with self._lock:
            if answer.ended:
                return
            answer.ended = True
            answer.error = error
            self._left -= 1
            last = self._left == 0
        if error is not None and self._on_chunk is not None:
            for chunk in answer.last_chunks():
                self._on_chunk(chunk)
        if last:
            self.finished.set_result(None)


def _finish(reason: str | None) -> FinishReason | None:
    if reason is None or reason == "stop":
        return reason  # type: ignore[return-value]
    return "length" if reason == "length" else "error"
