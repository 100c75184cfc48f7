"""Calls of a pipe: batches, streams, threads, event loops, errors and what is broken off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deploykit import GenerationConfig, GenerationError, Pipeline, Response

Idle = Callable[[], None]

LONG = GenerationConfig(max_new_tokens=1500)
TOO_LONG = "x" * 5000  # a session holds 2048


def test_a_prompt_may_be_a_text_or_a_conversation(pipe: Pipeline) -> None:
    text = pipe("Hi")
    conversation = pipe([{"role": "user", "content": "Hi"}])
    assert isinstance(text, Response)
    assert (text.text, text.token_ids) == (conversation.text, conversation.token_ids)
    assert (text.index, text.input_token_len, text.generate_token_len) == (0, len("user:Hi\nassistant:"), 12)
    assert len(text.token_ids) == 12
    assert (text.finish_reason, text.error, text.logprobs) == ("length", None, None)


def test_a_batch_keeps_the_order_and_runs_at_once(pipe: Pipeline) -> None:
    prompts: list[Any] = [f"prompt {i}" for i in range(30)]
    prompts[7] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    started = pipe._core.client.state
    responses = pipe(prompts)
    assert [r.index for r in responses] == list(range(30))
    assert [r.text for r in responses] == [pipe(prompt).text for prompt in prompts]
    assert started.connections == 1

    most = 0
    for _ in pipe.stream(prompts, GenerationConfig(max_new_tokens=40)):
        most = max(most, pipe._core.client.unfinished)
    assert most > 8  # more than run at once: the engine's queue is never empty
    assert pipe([]) == []


def test_one_prompt_of_a_batch_that_fails_loses_nothing_else(pipe: Pipeline) -> None:
    good = pipe("Hi")
    responses = pipe(["Hi", TOO_LONG, [{"role": "judge", "content": "?"}], "Hi"])
    assert [r.text for r in responses] == [good.text, "", "", good.text]
    assert [r.finish_reason for r in responses] == ["length", "error", "error", "length"]
    assert [r.error and r.error.code for r in responses] == [
        None,
        "context_length_exceeded",
        "invalid_value",
        None,
    ]
    chunks = list(pipe.stream(["Hi", TOO_LONG]))
    assert [c.error.code for c in chunks if c.error] == ["context_length_exceeded"]
    assert "".join(c.text for c in chunks if c.index == 0) == good.text


def test_a_single_prompt_that_fails_raises(pipe: Pipeline) -> None:
    with pytest.raises(GenerationError, match="2048") as caught:
        pipe(TOO_LONG)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(GenerationError):
        next(iter(pipe.stream(TOO_LONG)))
    with pytest.raises(GenerationError, match=r"`stop_token_ids`.*vocabulary"):
        pipe("Hi", GenerationConfig(stop_token_ids=[9999]))
    with pytest.raises(GenerationError, match=r"`min_new_tokens` .9. is over max_new_tokens .4.") as caught:
        pipe("Hi", GenerationConfig(min_new_tokens=9, max_new_tokens=4))
    assert caught.value.where == "min_new_tokens"


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (5, "not int"),
        ([1, 2], r"prompts\[0\]"),
        (["a", None], r"prompts\[1\]"),
        ([[]], r"prompts\[0\].*an empty list"),
        ({"role": "user", "content": "Hi"}, "not dict"),
    ],
)
def test_what_is_no_prompt_is_a_type_error(pipe: Pipeline, prompts: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        pipe(prompts)
    with pytest.raises(TypeError, match="gen_config"):
        pipe("Hi", {"top_k": 1})  # type: ignore[call-overload]


def test_a_text_goes_without_the_template_where_that_is_asked_for(pipe: Pipeline) -> None:
    response = pipe("abc", do_preprocess=False)
    assert response.input_token_len == 3
    assert response.text != pipe("abc").text
    with pytest.raises(GenerationError, match="do_preprocess"):
        pipe([{"role": "user", "content": "abc"}], do_preprocess=False)


def test_a_stream_is_the_same_answer_in_pieces(pipe: Pipeline) -> None:
    config = GenerationConfig(max_new_tokens=20, n=2, top_k=0, temperature=1.0, random_seed=3, logprobs=1)
    whole = pipe(["a", "b"], config)
    chunks = list(pipe.stream(["a", "b"], config))
    for response in whole:
        for number, choice in enumerate(response.choices):
            mine = [c for c in chunks if (c.index, c.choice) == (response.index, number)]
            assert "".join(c.text for c in mine) == choice.text
            assert tuple(t for c in mine for t in c.token_ids) == choice.token_ids
            assert tuple(p for c in mine for p in c.logprobs or ()) == choice.logprobs
            assert [c.finish_reason for c in mine] == [None] * (len(mine) - 1) + [choice.finish_reason]
            assert [c.generate_token_len for c in mine] == sorted(c.generate_token_len for c in mine)
    assert whole[0].choices[0].token_ids != whole[0].choices[1].token_ids


def test_many_threads_ask_at_the_same_time(pipe: Pipeline) -> None:
    expected = [pipe(f"thread {i}").text for i in range(12)]
    with ThreadPoolExecutor(12) as threads:
        for _ in range(3):
            assert list(threads.map(lambda i: pipe(f"thread {i}").text, range(12))) == expected


def test_leaving_a_stream_ends_the_work(pipe: Pipeline, idle: Idle) -> None:
    for chunk in pipe.stream(["a", "b", "c"], LONG):
        if chunk.generate_token_len > 3:
            break
    idle()
    stream = pipe.stream("a", LONG)
    next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    idle()


def test_ctrl_c_ends_the_work_and_leaves_the_pipe(pipe: Pipeline, idle: Idle) -> None:
    def interrupt() -> None:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    for ask in (
        lambda: pipe(["a"] * 20, LONG),
        lambda: list(pipe.stream("a", LONG)),
        lambda: pipe.chat("a", None, LONG),
    ):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            ask()
        thread.join()
        assert pipe._core.client.unfinished == 0
    idle()
    assert pipe("Hi").finish_reason == "length"


def test_the_async_twins_answer_as_their_siblings_do(pipe: Pipeline) -> None:
    async def main() -> None:
        one, two = await asyncio.gather(pipe.ainfer("a"), pipe.ainfer(["b", TOO_LONG]))
        assert isinstance(one, Response)
        assert one.text == pipe("a").text
        assert isinstance(two, list)
        assert (two[0].text, two[1].error and two[1].error.code) == (
            pipe("b").text,
            "context_length_exceeded",
        )
        assert "".join([chunk.text async for chunk in pipe.astream("a")]) == one.text
        with pytest.raises(GenerationError):
            await pipe.ainfer(TOO_LONG)
        with pytest.raises(GenerationError):
            [chunk async for chunk in pipe.astream(TOO_LONG)]
        first = await pipe.achat("a")
        assert first.session is not None
        chunks = [chunk async for chunk in pipe.astream_chat("b", first.session)]
        assert "".join(chunk.text for chunk in chunks) == first.session.messages[-1]["content"]

    asyncio.run(main())


def test_cancelling_a_task_ends_its_work(pipe: Pipeline, idle: Idle) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pipe.ainfer(["a"] * 20, LONG), 0.3)
        stream = pipe.astream("a", LONG)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        with contextlib.suppress(StopAsyncIteration):
            await anext(stream)

    asyncio.run(main())
    idle()


def test_a_second_turn_computes_only_its_new_tokens(pipe: Pipeline) -> None:
    first = pipe.chat("My name is Ada.")
    session = first.session
    assert session is not None
    second = pipe.chat("What is my name?", session)
    # All that stood there has its KV but the last token, which was drawn and never computed.
    assert second.cached_tokens == first.input_token_len + first.generate_token_len - 1
    third = pipe.chat([{"role": "user", "content": "And now?"}], session)
    assert third.cached_tokens == second.input_token_len + second.generate_token_len - 1
    assert [m["role"] for m in session.messages] == ["user", "assistant"] * 3
    assert session.messages[3] == {"role": "assistant", "content": second.text}


def test_a_turn_that_is_not_answered_leaves_the_session_as_it_was(pipe: Pipeline) -> None:
    session = pipe.chat("Hello").session
    assert session is not None
    before = [dict(message) for message in session.messages]
    with pytest.raises(GenerationError, match=r"context|session"):
        pipe.chat(TOO_LONG, session)
    for chunk in pipe.stream_chat("Go on", session, LONG):
        if chunk.generate_token_len > 2:
            with pytest.raises(GenerationError) as caught:
                pipe.chat("Now", session)
            assert caught.value.code == "session_busy"
            break
    assert session.messages == before
    assert pipe.chat("Go on", session).cached_tokens > 0
    with pytest.raises(GenerationError, match="one answer"):
        pipe.chat("a", session, GenerationConfig(n=2))


def test_a_stop_word_ends_a_turn_and_the_next_one_goes_on_from_the_text(pipe: Pipeline) -> None:
    answer = pipe("Hello", GenerationConfig(max_new_tokens=30)).text
    stop = answer[10:12]
    first = pipe.chat("Hello", None, GenerationConfig(max_new_tokens=30, stop_words=[stop]))
    assert first.finish_reason == "stop"
    assert first.text == answer[: answer.index(stop)]
    second = pipe.chat("More", first.session)
    assert second.error is None
    assert second.input_token_len == len(
        f"user:Hello\nassistant:{first.text}\nuser:More\nassistant:".encode()
    )
