"""Keys, hosts, sizes, slow sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_harness import KEY, Front, StandInEngine, key_hash, make_spec, raw_post, run_front

from deploykit.server.routes import ROUTES
from deploykit.server.spec import Limits

SHORT = Limits(
    header_timeout=0.6,
    body_timeout=0.6,
    idle_timeout=1.0,
    max_body=20_000,
    max_connections=12,
    max_n=2,
    max_tokens=10,
)


@pytest.fixture(scope="module")
def guarded(folder: Path, tokenizer_path: Path, shared_engine: StandInEngine) -> Iterator[Front]:
    """With a key and short limits."""
    spec = make_spec(
        tokenizer_path,
        shared_engine.socket_path,
        limits=SHORT,
        api_key_hashes=(key_hash("other"), key_hash(KEY)),
    )
    with run_front(folder, spec, key=KEY) as front:
        yield front


def exchange(front: Front, data: bytes, *, timeout: float = 5.0) -> bytes:
    """Send raw bytes and read until the server closes."""
    with front.raw(timeout) as sock:
        sock.sendall(data)
        received = b""
        while part := sock.recv(65536):
            received += part
        return received


def test_every_route_but_health_asks_for_the_key(guarded: Front) -> None:
    paths = [(route.method, route.path.replace("{model}", "x")) for route in ROUTES]
    paths += [
        ("GET", "/docs/docs.js"),
        ("GET", "/nothing"),
        ("GET", "//v1/models"),
        ("GET", "/health/"),
        ("GET", "/%68ealthx"),
    ]
    with guarded.http() as http:
        for wrong in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": KEY},
            {"authorization": f"Basic {KEY}"},
        ):
            http.headers.pop("authorization", None)
            for method, path in paths:
                reply = http.request(method, guarded.url + path, headers=wrong)
                if path in ("/health", "/health/live", "/health/ready", "/health/startup"):
                    assert reply.status_code == 200, path
                else:
                    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key"), (
                        path
                    )
                    assert reply.headers["www-authenticate"] == "Bearer"


def test_two_keys_are_none(guarded: Front) -> None:
    head = (
        f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n"
    )
    assert exchange(guarded, f"{head}\r\n".encode()).startswith(b"HTTP/1.1 200")
    assert exchange(guarded, f"{head}Authorization: Bearer x\r\n\r\n".encode()).startswith(b"HTTP/1.1 401")
    assert exchange(guarded, f"{head}Authorization: Bearer {KEY}\r\n\r\n".encode()).startswith(
        b"HTTP/1.1 401"
    )


def test_any_of_the_keys(guarded: Front) -> None:
    assert guarded.get("/v1/models").status_code == 200
    assert guarded.get("/v1/models", headers={"authorization": "bearer other"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("LOCALHOST", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("localhost@evil.example", False),
        ("a/?x=", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_a_loopback_server_answers_to_loopback_names_alone(front: Front, host: str, allowed: bool) -> None:
    reply = exchange(
        front, f"GET /health/live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    )
    assert reply.startswith(b"HTTP/1.1 200" if allowed else b"HTTP/1.1 403"), reply
    assert allowed or b"host_not_allowed" in reply


def test_other_addresses_answer_to_any_name(
    folder: Path, tokenizer_path: Path, shared_engine: StandInEngine
) -> None:
    spec = make_spec(
        tokenizer_path, shared_engine.socket_path, host="0.0.0.0", api_key_hashes=(key_hash(KEY),)
    )
    with run_front(folder, spec, key=KEY) as front:
        assert front.get("/v1/models", headers={"host": "llm.example:9"}).status_code == 200


def test_a_body_over_the_limit(guarded: Front) -> None:
    big = b'{"prompt": "' + b"x" * 30_000 + b'"}'
    reply = guarded.post("/v1/completions", big)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    with guarded.http() as http:
        chunked = http.post(
            "/v1/completions", content=(big[i : i + 1000] for i in range(0, len(big), 1000)),
            headers={"content-type": "application/json"},
        )  # fmt: skip
    assert chunked.status_code == 413


def test_the_operators_limits(guarded: Front) -> None:
    for body, param in (
        ({"n": 3}, "n"),
        ({"max_tokens": 11}, "max_tokens"),
        ({"max_completion_tokens": 11}, "max_completion_tokens"),
    ):
        reply = guarded.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], **body})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
        assert reply.json()["error"]["code"] == "over_limit"


def test_the_operators_max_tokens_is_the_default_too(guarded: Front, engine: StandInEngine) -> None:
    reply = guarded.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
    assert (reply.json()["choices"][0]["finish_reason"], reply.json()["usage"]["completion_tokens"]) == (
        "length",
        10,
    )


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", b""),
        (b"GET /health HTTP/1.1\r\nHost: loc", b"HTTP/1.1 408"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\n", b"HTTP/1.1 200"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200"),  # then idle
    ],
    ids=["silent", "half a header", "half a second header", "idle"],
)
def test_slow_and_silent_sockets_are_closed(guarded: Front, data: bytes, answer: bytes) -> None:
    began = time.monotonic()
    assert exchange(guarded, data).startswith(answer)
    assert time.monotonic() - began < 4


def test_a_slow_header_stays_slow_however_it_drips(guarded: Front) -> None:
    def drip() -> None:
        for _ in range(60):
            sock.sendall(b"X")
            time.sleep(0.1)

    with guarded.raw() as sock, pytest.raises(OSError):
        drip()


def test_half_a_body(guarded: Front) -> None:
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    reply = exchange(guarded, head.encode())
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"body_timeout" in reply
    # Refused before its body is read, then silent: closed all the same.
    assert exchange(guarded, head.replace(KEY, "no").encode()).startswith(b"HTTP/1.1 401")


def test_a_client_that_leaves_within_its_body_is_no_error(front: Front, engine: StandInEngine) -> None:
    with front.raw() as sock:
        sock.sendall(raw_post("/v1/completions", b"{", length=9))
    assert front.get("/health").status_code == 200
    assert "Traceback" not in front.log.read_text()


def test_too_many_connections(guarded: Front) -> None:
    socks = [guarded.raw() for _ in range(12)]
    reply = exchange(guarded, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 503")
    assert b"too_many_connections" in reply
    for sock in socks:
        sock.close()
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline and guarded.get("/health").status_code != 200:
        time.sleep(0.05)
    assert guarded.get("/health").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET /health HTTX/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_400_of_our_shape(front: Front, data: bytes) -> None:
    reply = exchange(front, data)
    assert reply.startswith(b"HTTP/1.1 400")
    assert b'"code":"invalid_http"' in reply


def test_a_reader_that_stalls_is_dropped_and_its_request_aborted(
    folder: Path, tokenizer_path: Path, shared_engine: StandInEngine, engine: StandInEngine
) -> None:
    engine.script.reply = "hello world " * 200
    engine.script.delay = 0.0005
    spec = make_spec(tokenizer_path, shared_engine.socket_path, limits=Limits(idle_timeout=1.0))
    with run_front(folder, spec) as front, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", front.port))
        body = b'{"prompt": "x", "max_tokens": 500, "stream": true, "logprobs": 20, "n": 8}'
        sock.sendall(raw_post("/v1/completions", body))
        engine.wait_for(
            lambda: len(engine.aborts) == 1 or (not engine.live and bool(engine.submits)), timeout=20
        )
        deadline = time.monotonic() + 10
        while "deploykit_http_requests_in_flight 1" not in (text := front.get("/metrics").text):
            assert time.monotonic() < deadline, text
            time.sleep(0.1)


def test_request_ids(front: Front) -> None:
    assert front.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = front.get("/health", headers={"x-request-id": "bad id"}).headers["x-request-id"]
    assert made != "bad id"
    assert len(made) == 24
