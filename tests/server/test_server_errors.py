"""Bad input: a clear error of OpenAI's shape, with the promised status; never a 5xx, never a 422."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from server_harness import Front, StandInEngine

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "hi"}]

BAD_BODIES: list[tuple[str, bytes | dict[str, Any], str | None]] = [
    # path, body, param
    (CHAT, b"", None),
    (CHAT, b"{", None),
    (CHAT, b"not json", None),
    (CHAT, b"[]", None),
    (CHAT, b"null", None),
    (CHAT, b'"text"', None),
    (CHAT, b"\xff\xfe", None),
    (CHAT, b'{"messages":' + b"[" * 100_000, None),
    (CHAT, b'{"x":' * 50_000, None),
    (CHAT, b'{"messages":[{"role":"user","content":"\\ud800"}]}', None),
    (CHAT, b'{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}', None),
    (CHAT, b'{"seed":' + b"9" * 5000 + b"}", None),
    (CHAT, json.dumps({"messages": USER}).encode("utf-16"), None),
    (CHAT, b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', "temperature"),
    (CHAT, b'{"messages":[{"role":"user","content":"x"}],"temperature":Infinity}', "temperature"),
    (CHAT, b'{"messages":[{"role":"user","content":"x"}],"top_p":1e999}', "top_p"),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "hi"}, "messages"),
    (CHAT, {"messages": [1]}, "messages[0]"),
    (CHAT, {"messages": USER * 2049}, "messages"),
    (CHAT, {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "name": "a<|im_end|>"}]}, "messages[0].name"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        "messages[0].content[0].type",
    ),
    (CHAT, {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages.tool_calls"),
    (CHAT, {"messages": USER, "tools": [{"type": "function"}]}, "tools"),
    (CHAT, {"messages": USER, "tool_choice": "required"}, "tool_choice"),
    (CHAT, {"messages": USER, "response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, {"messages": USER, "modalities": ["text", "audio"]}, "modalities"),
    (CHAT, {"messages": USER, "audio": {}}, "audio"),
    (CHAT, {"messages": USER, "reasoning_effort": "low"}, "reasoning_effort"),
    (CHAT, {"messages": USER, "guided_json": {}}, "guided_json"),
    (CHAT, {"messages": USER, "chat_template": "{{ 1 }}"}, "chat_template"),
    (CHAT, {"messages": USER, "chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
    (
        CHAT,
        {"messages": USER, "chat_template_kwargs": {"enable_thinking": True}},
        "chat_template_kwargs.enable_thinking",
    ),
    (CHAT, {"messages": USER, "n": 0}, "n"),
    (CHAT, {"messages": USER, "n": 9}, "n"),
    (CHAT, {"messages": USER, "n": 10**18}, "n"),
    (CHAT, {"messages": USER, "n": "1"}, "n"),
    (CHAT, {"messages": USER, "n": True}, "n"),
    (CHAT, {"messages": USER, "max_tokens": 0}, "max_tokens"),
    (CHAT, {"messages": USER, "max_tokens": 10**18}, "max_tokens"),
    (CHAT, {"messages": USER, "max_tokens": 5, "min_tokens": 6}, "min_tokens"),
    (CHAT, {"messages": USER, "temperature": 2.5}, "temperature"),
    (CHAT, {"messages": USER, "temperature": "hot"}, "temperature"),
    (CHAT, {"messages": USER, "top_p": 0}, "top_p"),
    (CHAT, {"messages": USER, "top_k": -2}, "top_k"),
    (CHAT, {"messages": USER, "min_p": 1.5}, "min_p"),
    (CHAT, {"messages": USER, "repetition_penalty": 0}, "repetition_penalty"),
    (CHAT, {"messages": USER, "presence_penalty": 3}, "presence_penalty"),
    (CHAT, {"messages": USER, "seed": 1 << 64}, "seed"),
    (CHAT, {"messages": USER, "stop": [""]}, "stop[0]"),
    (CHAT, {"messages": USER, "stop": ["x"] * 17}, "stop"),
    (CHAT, {"messages": USER, "stop": "x" * 257}, "stop"),
    (CHAT, {"messages": USER, "stop_token_ids": [512]}, "stop_token_ids"),
    (CHAT, {"messages": USER, "stop_token_ids": [-1]}, "stop_token_ids[0]"),
    (CHAT, {"messages": USER, "logit_bias": {"512": 1}}, "logit_bias"),
    (CHAT, {"messages": USER, "logit_bias": {"a": 1}}, "logit_bias.a"),
    (CHAT, {"messages": USER, "logit_bias": {"1": 101}}, "logit_bias.1"),
    (CHAT, {"messages": USER, "logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    (CHAT, {"messages": USER, "top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"messages": USER, "stream_options": {"include_usage": True}}, "stream_options"),
    (CHAT, {"messages": USER, "stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    (TEXT, {}, "prompt"),
    (TEXT, {"prompt": None}, "prompt"),
    (TEXT, {"prompt": ""}, "prompt"),
    (TEXT, {"prompt": ["ok", ""]}, "prompt[1]"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": [[]]}, "prompt[0]"),
    (TEXT, {"prompt": ["a", 1]}, "prompt[1]"),
    (TEXT, {"prompt": [1, "a"]}, "prompt[1]"),
    (TEXT, {"prompt": [1, -1]}, "prompt[1]"),
    (TEXT, {"prompt": [1, 512]}, "prompt"),
    (TEXT, {"prompt": [[1], [512]]}, "prompt[1]"),
    (TEXT, {"prompt": {"a": 1}}, "prompt"),
    (TEXT, {"prompt": ["a"] * 33}, "prompt"),
    (TEXT, {"prompt": "x", "suffix": "y"}, "suffix"),
    (TEXT, {"prompt": "x", "best_of": 2}, "best_of"),
    (TEXT, {"prompt": "x", "max_tokens": 0}, "max_tokens"),
    (TEXT, {"prompt": "x", "max_tokens": -1}, "max_tokens"),
    (TEXT, {"prompt": "x", "logprobs": 21}, "logprobs"),
    (TEXT, {"prompt": "x", "unheard_of": 1}, "unheard_of"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD_BODIES, ids=lambda value: str(value)[:60])
def test_a_bad_body_is_a_clear_400(
    front: Front, engine: StandInEngine, path: str, body: bytes | dict[str, Any], param: str | None
) -> None:
    reply = front.post(path, body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert len(error["message"]) < 300
    for leak in ("Traceback", "pydantic", "deploykit/", "0x"):
        assert leak not in reply.text
    assert not engine.submits


def test_a_prompt_longer_than_the_session(client: openai.OpenAI, engine: StandInEngine) -> None:
    text = "one two three " * 400
    for ask in (
        lambda: client.chat.completions.create(
            model="test-model", messages=[{"role": "user", "content": text}]
        ),
        lambda: client.completions.create(model="test-model", prompt=text),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask()
        assert caught.value.code == "context_length_exceeded"
        assert "512" in caught.value.message


def test_a_huge_prompt_is_refused_before_it_is_tokenized(front: Front, engine: StandInEngine) -> None:
    reply = front.post("/v1/completions", {"prompt": "x" * 8_000_000})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "at least" in reply.json()["error"]["message"]


def test_an_unknown_model(client: openai.OpenAI, engine: StandInEngine) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=USER)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_max_tokens_beyond_the_session_is_cut_to_it(front: Front, engine: StandInEngine) -> None:
    assert front.post("/v1/completions", {"prompt": "hello", "max_tokens": 100_000}).status_code == 200
    [submit] = engine.submits
    assert submit.sampling.max_tokens + len(submit.token_ids) // 4 == 512


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "//v1/models", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
        ("GET", "/docs/docs.py", 404),
    ],
)
def test_unknown_routes_and_methods(front: Front, method: str, path: str, status: int) -> None:
    with front.http() as http:
        reply = http.request(method, front.url + path)
    assert (reply.status_code, set(reply.json())) == (status, {"error"})


def test_only_json_is_taken(front: Front) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        reply = front.post(CHAT, b'{"messages":[]}', headers={"content-type": kind})
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "not_json")
    reply = front.post(CHAT, b"x", headers={"content-encoding": "gzip"})
    assert reply.status_code == 415


@pytest.mark.parametrize(
    ("code", "status", "answer"),
    [
        ("invalid", 400, "invalid"),
        ("too_long", 400, "context_length_exceeded"),
        ("unsupported", 400, "unsupported"),
        ("timeout", 504, "request_timeout"),
        ("overloaded", 429, "queue_full"),
        ("draining", 503, "server_draining"),
        ("internal", 500, "internal_error"),
        ("something new", 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_says(
    front: Front, engine: StandInEngine, code: str, status: int, answer: str, stream: bool
) -> None:
    engine.script.fail = (code, "because")
    reply = front.post(CHAT, {"messages": USER, "stream": stream})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, answer)
    assert ("retry-after" in reply.headers) == (status in (429, 503))


def test_no_request_breaks_the_server(front: Front, engine: StandInEngine) -> None:
    assert front.process.poll() is None
    assert " failed: " not in front.log.read_text()  # how a fault of the server's own is logged
