"""The streaming client against a real server on a socket."""

from __future__ import annotations

import socket

import pytest

from deploykit.chat.answer import Answer
from deploykit.chat.client import Client, base_url
from deploykit.chat.session import open_session
from deploykit.errors import DeploykitError


def _client(stub, key=None):
    return Client(base_url(stub.url), key)


def _body(text):
    return {"model": "stub-model", "messages": [{"role": "user", "content": text}]}


def test_a_streamed_answer_with_its_figures(stub):
    answer = Answer()
    for delta in _client(stub, "sk-1").stream_chat(_body("héllo \ud800")):
        answer.add(delta)
    assert answer.text == "you said: héllo \ud800"
    assert answer.finish == "stop"
    assert stub.headers[0]["authorization"] == "Bearer sk-1"
    assert stub.requests[0]["stream"] is True
    line = answer.stats()
    assert line.startswith("in 12 (cached 4) · out 7 · TTFT ")
    assert line.endswith("tok/s · stop")


def test_closing_the_iterator_hangs_up(stub):
    deltas = _client(stub).stream_chat(_body("slow"))
    assert next(deltas).text == "tick "
    deltas.close()
    assert stub.hung_up.wait(5)


@pytest.mark.parametrize(
    ("text", "what", "why"),
    [
        ("fail", "broke the answer off", "the engine was restarted"),
        ("cut", "ended before it was whole", None),
        ("refuse", "answered 429", "the queue is full"),
    ],
)
def test_failures_say_what_happened(stub, text, what, why):
    with pytest.raises(DeploykitError, match=what) as caught:
        list(_client(stub).stream_chat(_body(text)))
    assert caught.value.why == why
    assert caught.value.fix


def test_nobody_there():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{s.getsockname()[1]}/v1"
        with pytest.raises(DeploykitError, match="no server answers"):
            Client(base).models()


def test_a_session_keeps_a_failed_question_and_an_aborted_answer(stub):
    session = open_session(_client(stub), None, {"seed": 3}, "Be brief.")
    assert session.model == "stub-model"
    with pytest.raises(DeploykitError):
        session.ask("fail", lambda text: None)
    assert session.conversation.take_back() == "fail"

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    answer = session.ask("slow", interrupt)
    assert answer.aborted
    assert stub.hung_up.wait(5)
    assert session.conversation.turns == [("slow", "tick ")]
    session.ask("again", lambda text: None)
    sent = stub.requests[-1]
    assert sent["seed"] == 3
    assert [m["content"] for m in sent["messages"]] == ["Be brief.", "slow", "tick ", "again"]
