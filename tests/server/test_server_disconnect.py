"""Clients that go away, engines that go away, queues that are full."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from server_harness import REPLY, Front, StandInEngine, make_spec, run_front
from tokenizers import Tokenizer

from deploykit.server.spec import Limits

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("hold", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_aborts_its_request(
    front: Front, engine: StandInEngine, stream: bool, hold: int
) -> None:
    engine.script.hold_after = hold
    sock = front.send_raw(CHAT, {"messages": USER, "stream": stream})
    engine.wait_for(lambda: len(engine.submits) == 1)
    if stream and hold:
        assert b"Hello" in sock.recv(65536)
    sock.close()
    engine.wait_for(lambda: engine.aborts == [engine.submits[0].id], timeout=1.0)
    assert not engine.live


def test_all_prompts_of_a_gone_client_are_aborted(front: Front, engine: StandInEngine) -> None:
    engine.script.hold_after = 1
    sock = front.send_raw("/v1/completions", {"prompt": ["a", "b", "c"], "n": 2})
    engine.wait_for(lambda: len(engine.submits) == 3)
    sock.close()
    engine.wait_for(lambda: len(engine.aborts) == 3, timeout=1.0)
    assert {s.id for s in engine.submits} == set(engine.aborts)


def test_closing_a_stream_of_the_openai_client(client: openai.OpenAI, engine: StandInEngine) -> None:
    engine.script.delay = 0.02
    stream = client.chat.completions.create(model="test-model", messages=USER, stream=True)
    next(iter(stream))
    stream.close()
    engine.wait_for(lambda: len(engine.aborts) == 1, timeout=1.0)


def test_many_disconnects_leave_nothing(front: Front, engine: StandInEngine) -> None:
    engine.script.delay = 0.003
    for number in range(60):
        sock = front.send_raw(CHAT, {"messages": USER, "stream": number % 2 == 0})
        time.sleep((number % 7) * 0.005)
        sock.close()
    engine.wait_for(lambda: not engine.live)
    engine.script.delay = 0
    assert front.post(CHAT, {"messages": USER}).status_code == 200
    assert 'status="499"' in front.get("/metrics").text
    assert "deploykit_http_requests_in_flight 1" in front.get("/metrics").text


def test_a_finished_request_is_not_aborted(front: Front, engine: StandInEngine) -> None:
    assert front.post(CHAT, {"messages": USER}).status_code == 200
    assert front.post(CHAT, {"messages": USER, "stream": True}).status_code == 200
    front.get("/health")
    assert engine.aborts == []


@pytest.fixture
def own(folder: Path, tokenizer_path: Path, tokenizer: Tokenizer) -> Iterator[tuple[Front, StandInEngine]]:
    """An engine and a front of the test's own: it may restart the one and limit the other."""
    engine = StandInEngine(folder / "own.sock", tokenizer, credits=2)
    engine.start()
    limits = Limits(request_timeout=1.0)
    with run_front(folder, make_spec(tokenizer_path, engine.socket_path, limits=limits)) as front:
        yield front, engine
    engine.stop()


def test_a_full_queue_answers_429(own: tuple[Front, StandInEngine]) -> None:
    front, engine = own
    engine.script.hold_after = 0
    held = [front.send_raw(CHAT, {"messages": USER}) for _ in range(2)]
    engine.wait_for(lambda: len(engine.submits) == 2)
    reply = front.post(CHAT, {"messages": USER})
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
    assert int(reply.headers["retry-after"]) >= 1
    for sock in held:
        sock.close()
    engine.wait_for(lambda: not engine.live)
    engine.script.hold_after = None
    assert front.post(CHAT, {"messages": USER}).status_code == 200
    # Three prompts never fit two places: none of them is begun.
    before = len(engine.submits)
    assert front.post("/v1/completions", {"prompt": ["a", "b", "c"]}).status_code == 429
    assert len(engine.submits) == before


@pytest.mark.parametrize("hold", [0, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long(own: tuple[Front, StandInEngine], stream: bool, hold: int) -> None:
    front, engine = own
    engine.script.hold_after = hold
    reply = front.post(CHAT, {"messages": USER, "stream": stream})
    if stream and hold:
        assert reply.status_code == 200
        event = json.loads(reply.text.strip().rpartition("data: ")[2])
        assert event["error"]["code"] == "request_timeout"
        assert "[DONE]" not in reply.text
    else:
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "request_timeout")
        assert reply.headers["x-should-retry"] == "false"
    engine.wait_for(lambda: len(engine.aborts) == 1)


def test_an_engine_that_restarts(own: tuple[Front, StandInEngine]) -> None:
    front, engine = own
    engine.script.die_after = 3
    reply = front.post(CHAT, {"messages": USER, "stream": True})
    assert reply.status_code == 200
    event = json.loads(reply.text.strip().rpartition("data: ")[2])
    assert event["error"]["code"] == "engine_restarted"
    assert "[DONE]" not in reply.text
    engine.stop()  # before the first token, and while it is away
    for _ in range(2):
        reply = front.post(CHAT, {"messages": USER})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_restarted")
        assert "retry-after" in reply.headers
    health = front.get("/health/ready")
    assert (health.status_code, health.json()["status"]) == (503, "restarting")
    assert front.get("/health/live").status_code == 200
    assert front.get("/health/startup").status_code == 200
    engine.script.die_after = None
    engine.start()
    front.wait_ready()
    assert front.post(CHAT, {"messages": USER}).json()["choices"][0]["message"]["content"] == REPLY
    restarts = next(
        x for x in front.get("/metrics").text.splitlines() if x.startswith("deploykit_engine_restarts")
    )
    assert int(restarts.split()[1]) >= 1


def test_the_openai_client_sees_a_broken_stream_as_an_error(own: tuple[Front, StandInEngine]) -> None:
    front, engine = own
    engine.script.die_after = 3
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.APIError) as caught:
            list(client.chat.completions.create(model="test-model", messages=USER, stream=True))
        assert caught.value.code == "engine_restarted"


def test_loading_is_reported(folder: Path, tokenizer_path: Path, tokenizer: Tokenizer) -> None:
    engine = StandInEngine(folder / "loading.sock", tokenizer)
    with run_front(folder, make_spec(tokenizer_path, engine.socket_path), wait=False) as front:
        assert front.get("/health/startup").json() == {
            "status": "starting",
            "stage": "connecting",
            "fraction": 0.0,
        }
        engine.loading = ("weights", 0.25)
        engine.start()
        deadline = time.monotonic() + 5
        while front.get("/health/startup").json()["stage"] != "weights" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert front.get("/health/startup").json() == {
            "status": "starting",
            "stage": "weights",
            "fraction": 0.25,
        }
        reply = front.post(CHAT, {"messages": USER})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_starting")
        assert front.get("/health/live").status_code == 200
        assert front.get("/v1/models").json()["data"][0]["max_model_len"] is None
        engine.finish_loading()
        front.wait_ready()
        assert front.get("/health/startup").status_code == 200
        assert front.get("/v1/models").json()["data"][0]["max_model_len"] == 512
    engine.stop()
