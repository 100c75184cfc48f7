"""Starting, draining, ending, and how light the process is."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server_harness import REPLY, Front, StandInEngine, make_spec, run_front
from tokenizers import Tokenizer

from deploykit.server.spec import ServeSpec

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "a secret question"}]


@pytest.fixture
def engine_of_its_own(folder: Path, tokenizer: Tokenizer) -> Iterator[StandInEngine]:
    engine = StandInEngine(folder / "life.sock", tokenizer)
    engine.start()
    yield engine
    engine.stop()


def stream_in_background(
    front: Front, *, stream: bool = True
) -> tuple[threading.Thread, list[httpx.Response]]:
    replies: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: replies.append(front.post(CHAT, {"messages": USER, "stream": stream}))
    )
    thread.start()
    return thread, replies


def test_sigterm_lets_streams_finish(
    folder: Path, tokenizer_path: Path, engine_of_its_own: StandInEngine
) -> None:
    engine = engine_of_its_own
    engine.script.hold_after = 3
    with run_front(folder, make_spec(tokenizer_path, engine.socket_path)) as front:
        work = [stream_in_background(front, stream=stream) for stream in (True, True, False)]
        engine.wait_for(lambda: len(engine.live) == 3)
        idle = front.raw()  # a connection that does nothing doesn't hold up the end
        front.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while front.get("/health/ready").json()["status"] != "draining" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert front.get("/health/live").status_code == 200
        reply = front.post(CHAT, {"messages": USER})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "server_draining")
        assert "retry-after" in reply.headers
        engine.release.set()
        for thread, replies in work:
            thread.join(10)
            assert replies[0].status_code == 200
        assert [replies[0].text.endswith("data: [DONE]\n\n") for _, replies in work] == [True, True, False]
        assert work[2][1][0].json()["choices"][0]["message"]["content"] == REPLY
        assert front.process.wait(10) == 0
        idle.close()


def test_the_drain_is_bounded(folder: Path, tokenizer_path: Path, engine_of_its_own: StandInEngine) -> None:
    engine = engine_of_its_own
    engine.script.hold_after = 3
    with run_front(folder, make_spec(tokenizer_path, engine.socket_path, drain_timeout=0.3)) as front:
        work = [stream_in_background(front, stream=stream) for stream in (True, False)]
        engine.wait_for(lambda: len(engine.live) == 2)
        front.process.send_signal(signal.SIGTERM)
        assert front.process.wait(8) == 0
        for thread, _ in work:
            thread.join(5)
        streamed, whole = (replies[0] for _, replies in work)
        assert json.loads(streamed.text.strip().rpartition("data: ")[2])["error"]["code"] == "server_draining"
        assert "[DONE]" not in streamed.text
        assert whole.status_code == 503


def test_a_second_sigterm_ends_at_once(
    folder: Path, tokenizer_path: Path, engine_of_its_own: StandInEngine
) -> None:
    engine = engine_of_its_own
    engine.script.hold_after = 0
    with run_front(folder, make_spec(tokenizer_path, engine.socket_path)) as front:
        sock = front.send_raw(CHAT, {"messages": USER})
        engine.wait_for(lambda: len(engine.live) == 1)
        front.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while front.get("/health/ready").json()["status"] != "draining" and time.monotonic() < deadline:
            time.sleep(0.02)
        front.process.send_signal(signal.SIGTERM)
        assert front.process.wait(2) == 128 + signal.SIGTERM
        sock.close()


def test_the_front_ends_with_its_supervisor(
    folder: Path, tokenizer_path: Path, engine_of_its_own: StandInEngine
) -> None:
    with run_front(folder, make_spec(tokenizer_path, engine_of_its_own.socket_path)) as front:
        os.close(front.status)
        assert front.process.wait(3) != 0


def test_status_lines(front: Front) -> None:
    if not any(line["event"] == "ready" for line in front.lines):
        front.read_status("ready")
    ready = next(line for line in front.lines if line["event"] == "ready")
    assert ready["detail"]["port"] == front.port
    assert front.read_status("heartbeat")["phase"] == "serving"


@pytest.mark.parametrize("fault", ["tokenizer", "template", "json"])
def test_a_spec_that_cant_be_served_is_fatal(folder: Path, tokenizer_path: Path, fault: str) -> None:
    spec: ServeSpec = make_spec(tokenizer_path, folder / "none.sock")
    if fault == "tokenizer":
        spec = make_spec(folder / "missing.json", folder / "none.sock")
    if fault == "template":
        spec = make_spec(tokenizer_path, folder / "none.sock", chat_template="{% for %}")
    if fault == "json":
        spec = make_spec(tokenizer_path, folder / "none.sock", drain_timeout="soon")
    with pytest.raises(AssertionError, match="the front ended") as caught, run_front(folder, spec):
        pass
    assert "Traceback" not in str(caught.value)
    assert "where" in str(caught.value)


def test_the_process_is_light(front: Front, engine: StandInEngine) -> None:
    for _ in range(3):
        front.post(CHAT, {"messages": USER, "logprobs": True})
    front.get("/openapi.json")
    pid = front.process.pid
    status = Path(f"/proc/{pid}/status").read_text()
    assert int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) < 150 * 1024
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "transformers" not in maps


def test_prompts_and_answers_are_not_logged(front: Front, engine: StandInEngine) -> None:
    front.post(CHAT, {"messages": USER})
    front.post(CHAT, {"messages": USER, "temperature": "a secret question"})
    front.get("/a-secret-question")
    log = front.log.read_text()
    assert "secret" not in log
    assert "cats" not in log
    assert re.search(r"POST /v1/chat/completions 200 .* prompt=\d+ cached=0 output=\d+", log)
