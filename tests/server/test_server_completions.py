"""Text completions through the real openai client."""

from __future__ import annotations

import openai
import pytest
from server_harness import REPLY, Front, StandInEngine

from deploykit.engine.types import unpack

PROMPTS = ["Hello world", "one two three"]


def test_a_completion(client: openai.OpenAI, engine: StandInEngine) -> None:
    reply = client.completions.create(model="test-model", prompt="Hello", max_tokens=100)
    [choice] = reply.choices
    assert (choice.text, choice.finish_reason, choice.index, choice.logprobs) == (REPLY, "stop", 0, None)


def test_sixteen_tokens_by_default(client: openai.OpenAI, engine: StandInEngine) -> None:
    reply = client.completions.create(model="test-model", prompt="Hello")
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 16


@pytest.mark.parametrize("stream", [False, True])
def test_list_prompts_have_the_right_indexes(
    client: openai.OpenAI, engine: StandInEngine, stream: bool
) -> None:
    texts = {}
    if stream:
        for chunk in client.completions.create(
            model="test-model", prompt=PROMPTS, n=2, echo=True, max_tokens=100, stream=True
        ):
            choice = chunk.choices[0]
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    else:
        reply = client.completions.create(model="test-model", prompt=PROMPTS, n=2, echo=True, max_tokens=100)
        texts = {choice.index: choice.text for choice in reply.choices}
        assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert texts == {p * 2 + i: prompt + REPLY for p, prompt in enumerate(PROMPTS) for i in range(2)}


def test_token_ids_as_prompts(client: openai.OpenAI, engine: StandInEngine) -> None:
    ids = [engine.tokenizer.encode(prompt).ids for prompt in PROMPTS]
    one = client.completions.create(model="test-model", prompt=ids[0], echo=True, max_tokens=1)
    assert one.choices[0].text.startswith(PROMPTS[0])
    both = client.completions.create(model="test-model", prompt=ids, echo=True, max_tokens=1)
    assert [choice.text.startswith(prompt) for choice, prompt in zip(both.choices, PROMPTS, strict=True)] == [
        True
    ] * 2
    assert [unpack(s.token_ids).tolist() for s in engine.submits] == [ids[0], *ids]
    assert both.usage is not None
    assert both.usage.prompt_tokens == sum(map(len, ids))


def test_control_tokens_of_a_plain_prompt_are_control_tokens(
    client: openai.OpenAI, engine: StandInEngine
) -> None:
    client.completions.create(model="test-model", prompt="<|im_start|>user\n", max_tokens=1)
    assert unpack(engine.submits[0].token_ids).tolist()[0] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs(client: openai.OpenAI, engine: StandInEngine, stream: bool) -> None:
    options = {"model": "test-model", "prompt": PROMPTS[0], "echo": True, "logprobs": 2, "max_tokens": 100}
    tokens: list[str] = []
    values: list[float | None] = []
    offsets: list[int] = []
    top = []
    text = ""
    replies = (
        client.completions.create(**options, stream=True)
        if stream
        else [client.completions.create(**options)]
    )
    for reply in replies:
        text += reply.choices[0].text
        if (part := reply.choices[0].logprobs) is not None:
            tokens += part.tokens
            values += part.token_logprobs
            offsets += part.text_offset
            top += part.top_logprobs
    assert text == PROMPTS[0] + REPLY
    assert len(tokens) == len(values) == len(offsets) == len(top) > 15
    assert (values[0], top[0]) == (None, None)
    assert set(values[1:]) == {-0.5}
    assert all(2 <= len(entry) <= 3 for entry in top[1:])
    whole = [
        (token, offset)
        for token, offset in zip(tokens, offsets, strict=True)
        if not token.startswith("bytes:")
    ]
    assert all(text[offset:].startswith(token) for token, offset in whole)
    assert any(token.startswith("bytes:\\x") for token in tokens)  # the cat takes several


def test_scoring_a_prompt(client: openai.OpenAI, engine: StandInEngine) -> None:
    reply = client.completions.create(
        model="test-model", prompt="Hello world", echo=True, logprobs=1, max_tokens=0
    )
    choice = reply.choices[0]
    assert (choice.text, choice.finish_reason) == ("Hello world", "length")
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == "Hello world"
    assert engine.submits[0].sampling.max_tokens == 0
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 0


def test_usage_of_a_stream(client: openai.OpenAI, engine: StandInEngine) -> None:
    chunks = list(
        client.completions.create(
            model="test-model",
            prompt="Hello",
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert chunks[-2].choices[0].finish_reason == "length"


def test_stop_string_of_one_of_several_prompts(front: Front, engine: StandInEngine) -> None:
    body = front.post("/v1/completions", {"prompt": PROMPTS, "max_tokens": 100, "stop": "café"}).json()
    assert [(c["text"], c["finish_reason"]) for c in body["choices"]] == [("Hello there! The ", "stop")] * 2


def test_min_tokens_hold_off_stop_strings(front: Front, engine: StandInEngine) -> None:
    body = front.post(
        "/v1/completions", {"prompt": "a", "max_tokens": 100, "stop": "e", "min_tokens": 8}
    ).json()
    text = body["choices"][0]["text"]
    assert REPLY.startswith(text)
    assert text.count("e") > 0
    assert body["usage"]["completion_tokens"] > 8


def test_a_failure_of_one_prompt_fails_the_request_and_aborts_the_rest(
    front: Front, engine: StandInEngine
) -> None:
    engine.script.fail = ("internal", "inner detail")
    reply = front.post("/v1/completions", {"prompt": PROMPTS})
    assert reply.status_code == 500
    assert "inner" not in reply.text
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["x-request-id"] in reply.json()["error"]["message"]
