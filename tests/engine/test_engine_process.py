"""The engine as a process of its own, over its real socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from deploykit.engine.fake import fake_plan
from deploykit.engine.protocol import (
    PROTOCOL_VERSION,
    Abort,
    Drain,
    Failed,
    Heartbeat,
    Hello,
    Probe,
    Ready,
    StepOutputs,
    Submit,
    ToFront,
    decode_to_front,
)
from deploykit.engine.transport import FrameBuffer, frame
from deploykit.engine.types import SamplingParams, pack
from deploykit.plan.types import Plan

PLAN = fake_plan(
    name="test",
    vocab_size=512,
    eos_token_ids=(7,),
    session_len=4096,
    max_batch_size=4,
    max_queue=8,
    max_prefill_tokens=256,
    block_len=16,
    block_bytes=64,
    num_blocks=2048,
)


class Client:
    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.sock.settimeout(20)
        self.buffer = FrameBuffer()
        self.messages: list[ToFront] = []

    def send(self, message: msgspec.Struct) -> None:
        self.sock.sendall(frame(message))

    def wait(self, kind: type, **matching: object) -> ToFront:
        """The next message of a kind; others are passed over."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            while self.messages:
                message = self.messages.pop(0)
                if isinstance(message, kind) and all(getattr(message, k) == v for k, v in matching.items()):
                    return message
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.messages += [decode_to_front(body) for body in self.buffer.feed(data)]
        raise TimeoutError(kind)


class Engine:
    def __init__(self, folder: Path, plan: Plan = PLAN, **env: str) -> None:
        self.socket = folder / "engine.sock"
        (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
        self.status, write = os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "deploykit.engine", "--plan", str(folder / "plan.json")),
                *("--socket", str(self.socket), "--status-fd", str(write)),
            ],
            pass_fds=(write,),
            env={**os.environ, "DEPLOYKIT_TESTING": "1", **env},
        )
        os.close(write)

    def lines(self) -> Iterator[dict[str, object]]:
        with os.fdopen(os.dup(self.status)) as f:
            for line in f:
                yield json.loads(line)

    def wait_for(self, event: str) -> dict[str, object]:
        return next(line for line in self.lines() if line["event"] == event)

    def connect(self) -> Client:
        client = Client(self.socket)
        client.send(Hello(PROTOCOL_VERSION))
        return client

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.status)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path, DEPLOYKIT_FAULT="engine.step:delay=0.01")
    engine.wait_for("ready")
    yield engine
    engine.close()


def submit(name: str, **sampling: object) -> Submit:
    return Submit(id=name, token_ids=pack([9, 10, 11]), sampling=SamplingParams(**sampling))  # type: ignore[arg-type]


def test_requests_run_and_sigterm_ends_it(engine: Engine) -> None:
    client = engine.connect()
    ready = client.wait(Ready)
    assert isinstance(ready, Ready)
    assert ready.version == PROTOCOL_VERSION
    assert ready.credits == 12
    client.send(submit("a", max_tokens=5, ignore_eos=True))
    tokens = b""
    while True:
        message = client.wait(StepOutputs)
        assert isinstance(message, StepOutputs)
        tokens += b"".join(o.tokens for o in message.outputs)
        if message.outputs[-1].finish:
            break
    assert len(tokens) == 4 * 5
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(timeout=5) == 0
    assert not engine.socket.exists()


def test_the_socket_is_private(engine: Engine) -> None:
    assert engine.socket.stat().st_mode & 0o777 == 0o600


def test_abort_and_a_lost_client_free_the_blocks(engine: Engine) -> None:
    watcher, client = engine.connect(), engine.connect()
    client.send(submit("a", max_tokens=4000, ignore_eos=True))
    client.send(submit("b", max_tokens=4000, ignore_eos=True))
    client.wait(StepOutputs)
    watcher.send(Probe())
    assert watcher.wait(Heartbeat, running=2)
    client.send(Abort("a"))
    assert watcher.wait(Heartbeat, running=1, aborted=1)
    client.sock.close()
    assert watcher.wait(Heartbeat, running=0, blocks_used=0, aborted=2)


def test_draining_refuses_new_work_and_lets_the_old_end(engine: Engine) -> None:
    client = engine.connect()
    client.send(submit("old", max_tokens=20, ignore_eos=True))
    client.wait(StepOutputs)
    client.send(Drain())
    client.send(submit("new"))
    failed = client.wait(Failed)
    assert isinstance(failed, Failed)
    assert (failed.id, failed.code) == ("new", "draining")
    while not any(o.finish for o in client.wait(StepOutputs).outputs):  # type: ignore[union-attr]
        pass


def test_a_broken_frame_costs_the_client_its_connection_only(engine: Engine) -> None:
    bad, good = engine.connect(), engine.connect()
    bad.wait(Ready)
    bad.sock.sendall(b"\x05\x00\x00\x00hello")
    with pytest.raises((EOFError, ConnectionError)):
        bad.wait(Failed)
    good.send(submit("a", max_tokens=2))
    assert good.wait(StepOutputs)


def test_it_ends_with_its_supervisor(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.wait_for("ready")
    os.close(engine.status)
    engine.status = os.open("/dev/null", os.O_RDONLY)
    assert engine.process.wait(timeout=5) != 0
    engine.close()


def test_a_runner_that_cannot_load_says_why(tmp_path: Path) -> None:
    engine = Engine(tmp_path, msgspec.structs.replace(PLAN, engine="abacus"))
    fatal = engine.wait_for("fatal")
    assert "abacus" in str(fatal["what"])
    assert engine.process.wait(timeout=5) == 1
    engine.close()


def test_the_core_process_does_without_torch(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.wait_for("ready")
    maps = Path(f"/proc/{engine.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    engine.close()
