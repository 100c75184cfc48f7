"""Pipeline: the pipe itself, as `pipeline(...)` returns it."""

from __future__ import annotations

import asyncio
import queue
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import overload

from deploykit.pipe.core import Core
from deploykit.pipe.errors import GenerationError
from deploykit.pipe.generation_config import GenerationConfig
from deploykit.pipe.progress import BatchProgress, wanted
from deploykit.pipe.prompts import Message, Prompt, Prompter, as_batch
from deploykit.pipe.response import Chunk, Response
from deploykit.pipe.session import Session, Turn
from deploykit.pipe.work import OnChunk, Work

_LOOK_S = 0.1  # between two updates of a batch's bar


class Pipeline:
    """A model to be asked from Python. Any number of threads and event loops may ask at the same time.

    A prompt is a text (one user message) or a conversation (a list of OpenAI messages); a list of prompts is a batch,
    whose prompts run at once and whose responses come in the prompts' order. A single prompt that can't be answered
    raises GenerationError; in a batch that prompt's response has it in `error`, and the others are whole.

    Every question runs on the pipe's own engine process, which ends with the pipe: at `close()` or the end of its
    `with`, when nobody holds the pipe any more, and with this process, however that ends. An engine that dies is
    started again; what it was answering ends with the error `engine_restarted`.
    """

    def __init__(
        self,
        core: Core,
        *,
        model: str,
        eos_token_ids: Sequence[int],
        generation_config: GenerationConfig | None,
        progress: bool | None,
    ) -> None:
        """Made by `pipeline`."""
        self.model = model
        self._core = core
        self._prompter = Prompter(core.service, core.ready)
        self._eos_token_ids = tuple(eos_token_ids)
        self._config = generation_config
        self._progress = progress
        # At garbage collection, and before the interpreter ends.
        self._closer = weakref.finalize(self, core.close)

    # ------------------------------------------------------------ whole answers

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str too; the first match counts
        self,
        prompts: str | Sequence[Message],
        gen_config: GenerationConfig | None = None,
        *,
        do_preprocess: bool = True,
    ) -> Response: ...

    @overload
    def __call__(
        self,
        prompts: Sequence[Prompt],
        gen_config: GenerationConfig | None = None,
        *,
        do_preprocess: bool = True,
    ) -> list[Response]: ...

    def __call__(
        self,
        prompts: Prompt | Sequence[Prompt],
        gen_config: GenerationConfig | None = None,
        *,
        do_preprocess: bool = True,
    ) -> Response | list[Response]:
        """Answer a prompt, or each prompt of a batch.

        `do_preprocess=False` takes texts as they are, without the chat template. Ctrl-C ends what runs and leaves
        the pipe as it was. Raises GenerationError where a single prompt can't be answered, TypeError for no prompt.
        """
        batch, single = as_batch(prompts)
        config = self._resolve(gen_config)
        work = self._work(len(batch), config)
        try:
            with BatchProgress(len(batch), wanted(self._progress)) as bar:
                self._submit(work, batch, config, do_preprocess)
                while bar.shown:
                    try:
                        work.finished.result(_LOOK_S)
                        break
                    except TimeoutError:
                        bar.update(work.num_ended, work.num_tokens)
                work.finished.result()
                bar.update(work.num_ended, work.num_tokens)
        except BaseException:
            work.cancel_and_wait()
            raise
        return work.result(single=single)

    infer = __call__

    @overload
    async def ainfer(  # type: ignore[overload-overlap]
        self,
        prompts: str | Sequence[Message],
        gen_config: GenerationConfig | None = None,
        *,
        do_preprocess: bool = True,
    ) -> Response: ...

    @overload
    async def ainfer(
        self,
        prompts: Sequence[Prompt],
        gen_config: GenerationConfig | None = None,
        *,
        do_preprocess: bool = True,
    ) -> list[Response]: ...

    async def ainfer(
        self,
        prompts: Prompt | Sequence[Prompt],
        gen_config: GenerationConfig | None = None,
        *,
        do_preprocess: bool = True,
    ) -> Response | list[Response]:
        """The same for an event loop: cancelling the task ends what runs."""
        batch, single = as_batch(prompts)
        config = self._resolve(gen_config)
        work = self._work(len(batch), config)
        try:
            await asyncio.to_thread(self._submit, work, batch, config, do_preprocess)
            await asyncio.wrap_future(work.finished)
        except BaseException:
            work.cancel()
            raise
        return work.result(single=single)

    # ------------------------------------------------------------ streams

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        gen_config: GenerationConfig | None = None,
        *,
        do_preprocess: bool = True,
    ) -> Iterator[Chunk]:
        """The answers as they come; those of a batch interleaved, told apart by `index` (and `choice`).

        Work begins with the first `next`. Leaving the iteration ends what runs.
        """
        batch, single = as_batch(prompts)
        config = self._resolve(gen_config)
        self._core.check()
        return self._stream(batch, single, config, do_preprocess)

    stream_infer = stream

    def _stream(
        self, batch: list[Prompt], single: bool, config: GenerationConfig, do_preprocess: bool
    ) -> Iterator[Chunk]:
        chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        work = self._work(len(batch), config, chunks.put)
        work.finished.add_done_callback(lambda _: chunks.put(None))
        try:
            self._submit(work, batch, config, do_preprocess)
            while (chunk := chunks.get()) is not None:
                if single and chunk.error is not None:
                    raise chunk.error
                yield chunk
        finally:
            work.cancel_and_wait()

    async def astream(
        self,
        prompts: Prompt | Sequence[Prompt],
        gen_config: GenerationConfig | None = None,
        *,
        do_preprocess: bool = True,
    ) -> AsyncIterator[Chunk]:
        """The same for an event loop: `async for chunk in pipe.astream(…)`."""
        batch, single = as_batch(prompts)
        config = self._resolve(gen_config)
        chunks, work = self._async_work(len(batch), config)
        try:
            await asyncio.to_thread(self._submit, work, batch, config, do_preprocess)
            while (chunk := await chunks.get()) is not None:
                if single and chunk.error is not None:
                    raise chunk.error
                yield chunk
        finally:
            work.cancel()

    # ------------------------------------------------------------ conversations

    def chat(
        self, prompt: Prompt, session: Session | None = None, gen_config: GenerationConfig | None = None
    ) -> Response:
        """The next turn of a conversation; without `session` the first of a new one, which is `response.session`.

        A turn that isn't answered to its end (an error, Ctrl-C) leaves the session as it was. Raises GenerationError.
        """
        session, config = self._conversation(session, gen_config)
        with session.turn():
            turn = session.prepare(prompt, self._prompter, config)
            work = self._work(1, config)
            try:
                work.add(0, lambda: turn.job)
                work.finished.result()
            except BaseException:
                work.cancel_and_wait()
                raise
            return self._answered(session, turn, work)

    async def achat(
        self, prompt: Prompt, session: Session | None = None, gen_config: GenerationConfig | None = None
    ) -> Response:
        """The same for an event loop."""
        session, config = self._conversation(session, gen_config)
        with session.turn():
            turn = await asyncio.to_thread(session.prepare, prompt, self._prompter, config)
            work = self._work(1, config)
            try:
                work.add(0, lambda: turn.job)
                await asyncio.wrap_future(work.finished)
            except BaseException:
                work.cancel()
                raise
            return self._answered(session, turn, work)

    def stream_chat(
        self, prompt: Prompt, session: Session, gen_config: GenerationConfig | None = None
    ) -> Iterator[Chunk]:
        """A turn as it comes. It is part of the session once its last chunk has been taken."""
        session, config = self._conversation(session, gen_config)
        self._core.check()
        return self._stream_chat(prompt, session, config)

    def _stream_chat(self, prompt: Prompt, session: Session, config: GenerationConfig) -> Iterator[Chunk]:
        with session.turn():
            turn = session.prepare(prompt, self._prompter, config)
            chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
            work = self._work(1, config, chunks.put)
            work.finished.add_done_callback(lambda _: chunks.put(None))
            try:
                work.add(0, lambda: turn.job)
                while (chunk := chunks.get()) is not None:
                    if chunk.finish_reason is not None:
                        work.finished.result()
                        self._answered(session, turn, work)  # before the caller sees the end
                    yield chunk
            finally:
                work.cancel_and_wait()

    async def astream_chat(
        self, prompt: Prompt, session: Session, gen_config: GenerationConfig | None = None
    ) -> AsyncIterator[Chunk]:
        """The same for an event loop."""
        session, config = self._conversation(session, gen_config)
        with session.turn():
            turn = await asyncio.to_thread(session.prepare, prompt, self._prompter, config)
            chunks, work = self._async_work(1, config)
            try:
                work.add(0, lambda: turn.job)
                while (chunk := await chunks.get()) is not None:
                    if chunk.finish_reason is not None:
                        await asyncio.wrap_future(work.finished)
                        self._answered(session, turn, work)
                    yield chunk
            finally:
                work.cancel()

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """End the engine process; what still runs ends with the error `closed`. Does nothing the second time."""
        self._closer()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        ready = self._core.ready
        state = "closed" if self._core.closed else f"{ready.engine} on {ready.device}, {ready.dtype}"
        return f"<Pipeline {self.model}: {state}>"

    # ------------------------------------------------------------ parts

    def _resolve(self, config: GenerationConfig | None) -> GenerationConfig:
        if config is not None and not isinstance(config, GenerationConfig):
            raise TypeError(f"gen_config is a GenerationConfig, not {type(config).__name__}")
        return (config or GenerationConfig()).over(self._config)

    def _work(self, total: int, config: GenerationConfig, on_chunk: OnChunk | None = None) -> Work:
        self._core.check()
        return Work(
            self._core, total, n=config.n or 1, logprobs=config.logprobs is not None, on_chunk=on_chunk
        )

    def _async_work(self, total: int, config: GenerationConfig) -> tuple[asyncio.Queue[Chunk | None], Work]:
        """A call whose chunks come through a queue of the running loop, None after the last."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()

        def put(chunk: Chunk | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

        work = self._work(total, config, put)
        work.finished.add_done_callback(lambda _: put(None))
        return chunks, work

    def _submit(self, work: Work, batch: list[Prompt], config: GenerationConfig, do_preprocess: bool) -> None:
        for index, prompt in enumerate(batch):
            work.add(index, partial(self._prompter.job, prompt, config, do_preprocess=do_preprocess))

    def _conversation(
        self, session: Session | None, gen_config: GenerationConfig | None
    ) -> tuple[Session, GenerationConfig]:
        config = self._resolve(gen_config)
        if (config.n or 1) > 1:
            raise GenerationError("invalid_value", "a conversation goes on from one answer", where="n")
        return session if session is not None else Session(), config

    def _answered(self, session: Session, turn: Turn, work: Work) -> Response:
        """The turn's response, with the session that has it now. Raises GenerationError."""
        answer = work.answers[0]
        if answer.error is not None:
            raise answer.error
        response = answer.response(session)
        session.commit(turn, response, self._prompter, self._eos_token_ids)
        return response
