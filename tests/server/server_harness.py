"""The front process as it really runs, and a stand-in for the engine's side of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from deploykit.engine.protocol import (
    PROTOCOL_VERSION,
    Abort,
    Failed,
    Heartbeat,
    Hello,
    Output,
    Ready,
    StepOutputs,
    Submit,
    decode_to_engine,
)
from deploykit.engine.transport import frame, listen, read_frame
from deploykit.engine.types import TokenLogprob, pack, unpack
from deploykit.server.spec import Limits, ServeSpec

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
EOS = 2
REPLY = "Hello there! The café has 3 cats 🐈 and a dog."
KEY = "correct horse battery staple"

_CORPUS = [
    "hello world this is a test of the tokenizer and of the server that uses it",
    "Hello there! The café has 3 cats and a dog. The capital of France is Paris.",
    "system user assistant one two three four five six seven eight nine ten",
]


def make_tokenizer(path: Path) -> Path:
    """A small byte-level tokenizer.json with ChatML's control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 20, trainer)
    tokenizer.save(str(path))
    return path


@dataclass
class Script:
    """What the stand-in engine does with requests from now on."""

    reply: str = REPLY
    tokens_at_once: int = 1
    delay: float = 0.0  # seconds before each output
    hold_after: int | None = None  # outputs after which it stays silent until `release`
    fail: tuple[str, str] | None = None  # (code, reason) instead of an answer
    cached: int = 0
    die_after: int | None = None  # outputs after which the connection is cut


class StandInEngine:
    """Answers every request with the tokens of `script.reply`, then EOS; in a thread with a loop of its own."""

    def __init__(
        self, socket_path: Path, tokenizer: Tokenizer, *, session_len: int = 512, credits: int = 8
    ) -> None:
        self.socket_path = socket_path
        self.tokenizer = tokenizer
        self.session_len = session_len
        self.credits = credits
        self.vocab_size = 512
        self.script = Script()
        self.submits: list[Submit] = []
        self.aborts: list[str] = []
        self.live: dict[str, asyncio.Task[None]] = {}
        self.release = threading.Event()
        self.loading: tuple[str, float] | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    # ------------------------------------------------------------ called from tests

    def start(self) -> None:
        self._call(self._listen())

    def stop(self) -> None:
        """Go away as a killed process does."""
        self._call(self._close())

    def restart(self) -> None:
        self.stop()
        self.start()

    def finish_loading(self) -> None:
        self.loading = None
        self._call(self._greet_all())

    def wait_for(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "the engine never saw it"
            time.sleep(0.005)

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(5)

    # ------------------------------------------------------------ the protocol

    async def _listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, sock=listen(self.socket_path))

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self.live.values():
            task.cancel()
        self.live.clear()
        for writer in list(self._writers):
            writer.close()
        self.socket_path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        beats = asyncio.create_task(self._beat(writer))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self._handle(decode_to_engine(await read_frame(reader)), writer)
        beats.cancel()
        self._writers.discard(writer)

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(frame(self._heartbeat()))
                await asyncio.sleep(0.1)

    def _heartbeat(self) -> Heartbeat:
        if self.loading is not None:
            return Heartbeat(phase=self.loading[0], progress=self.loading[1], expected_s=60)
        return Heartbeat(
            phase="idle", running=len(self.live), blocks_total=64, blocks_used=4 * len(self.live), step=7
        )

    def _handle(self, message: Any, writer: asyncio.StreamWriter) -> None:
        if isinstance(message, Hello):
            assert message.version == PROTOCOL_VERSION
            if self.loading is None:
                writer.write(frame(self._ready()))
        elif isinstance(message, Submit):
            self.submits.append(message)
            self.live[message.id] = self.loop.create_task(self._answer(message, writer))
        elif isinstance(message, Abort):
            self.aborts.append(message.id)
            if (task := self.live.pop(message.id, None)) is not None:
                task.cancel()

    async def _greet_all(self) -> None:
        for writer in self._writers:
            writer.write(frame(self._ready()))

    def _ready(self) -> Ready:
        return Ready(
            version=PROTOCOL_VERSION,
            engine="stand-in",
            device="cpu",
            dtype="float32",
            max_rows=8,
            session_len=self.session_len,
            vocab_size=self.vocab_size,
            block_len=16,
            num_blocks=256,
            credits=self.credits,
            bytes_predicted=0,
            bytes_measured=0,
        )

    async def _answer(self, submit: Submit, writer: asyncio.StreamWriter) -> None:
        script, sampling = self.script, submit.sampling
        if script.fail is not None:
            writer.write(frame(Failed(id=submit.id, code=script.fail[0], reason=script.fail[1])))
            self.live.pop(submit.id, None)
            return
        prompt = unpack(submit.token_ids).tolist()
        reply = self.tokenizer.encode(script.reply, add_special_tokens=False).ids
        if not sampling.ignore_eos:
            reply = [*reply, EOS]
        length = len(reply) > sampling.max_tokens
        reply = reply[: sampling.max_tokens]
        for sent, start in enumerate(range(0, max(1, len(reply)), script.tokens_at_once)):
            first = sent == 0
            part = reply[start : start + script.tokens_at_once]
            last = start + script.tokens_at_once >= len(reply)
            if script.delay:
                await asyncio.sleep(script.delay)
            while script.hold_after is not None and sent >= script.hold_after and not self.release.is_set():
                await asyncio.sleep(0.01)
            outputs = [
                Output(
                    id=submit.id,
                    index=index,
                    tokens=pack(part),
                    finish=("length" if length else "stop") if last else None,
                    stop_token=last and not length and bool(part),
                    logprobs=tuple(self.logprob(token, sampling.logprobs) for token in part)
                    if sampling.logprobs is not None
                    else (),
                    prompt_logprobs=tuple(
                        self.logprob(token, sampling.prompt_logprobs) for token in prompt[1:]
                    )
                    if first and sampling.prompt_logprobs is not None
                    else (),
                    prompt_tokens=len(prompt) if first else 0,
                    cached_tokens=script.cached if first else 0,
                )
                for index in range(submit.n)
            ]
            writer.write(frame(StepOutputs(outputs=tuple(outputs))))
            if script.die_after is not None and sent + 1 >= script.die_after:
                writer.close()
                return
        self.live.pop(submit.id, None)

    @staticmethod
    def logprob(token: int, alternatives: int | None) -> TokenLogprob:
        top = tuple(((token + i) % 500, -0.5 - i) for i in range(alternatives or 0))
        return TokenLogprob(token, -0.5, 1, top)


@dataclass
class Front:
    """A running front process."""

    process: subprocess.Popen[bytes]
    port: int
    status: int  # reading end of its status pipe
    log: Path
    key: str | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def http(self, **options: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        with self.http() as http:
            if isinstance(body, bytes):
                headers = {"content-type": "application/json"} | options.pop("headers", {})
                return http.post(path, content=body, headers=headers, **options)
            return http.post(path, json=body, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with self.http() as http:
            return http.get(path, **options)

    def wait_ready(self, timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.get("/health/ready").status_code == 200:
                return
            time.sleep(0.02)
        raise AssertionError(f"never ready; its log:\n{self.log.read_text()}")

    def read_status(self, event: str, timeout: float = 15.0) -> dict[str, Any]:
        """The next status line of that kind."""
        buffer = b""
        os.set_blocking(self.status, False)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                data = os.read(self.status, 65536)
                buffer += data
                for line in buffer.splitlines():
                    with contextlib.suppress(json.JSONDecodeError):
                        self.lines.append(parsed := json.loads(line))
                        if parsed["event"] == event:
                            return parsed
                assert data, f"the front ended; its log:\n{self.log.read_text()}"
            time.sleep(0.01)
        raise AssertionError(f"no {event} line; its log:\n{self.log.read_text()}")

    def raw(self, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def send_raw(self, path: str, body: Any) -> socket.socket:
        """A POST on a socket of its own, whose answer isn't awaited."""
        sock = self.raw()
        sock.sendall(raw_post(path, json.dumps(body).encode()))
        return sock


def raw_post(path: str, body: bytes, *, length: int | None = None) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def run_front(folder: Path, spec: ServeSpec, *, key: str | None = None, wait: bool = True) -> Iterator[Front]:
    """Start `python -m deploykit.server` as the supervisor does."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    port = listener.getsockname()[1]
    spec_path = folder / f"serve-{port}.json"
    spec_path.write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, port=port)))
    reading, writing = os.pipe()
    log = folder / f"front-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "deploykit.server", "--spec", str(spec_path)),
                *("--fd", str(listener.fileno()), "--status-fd", str(writing)),
            ],
            pass_fds=(listener.fileno(), writing),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    listener.close()
    os.close(writing)
    front = Front(process, port, reading, log, key)
    try:
        front.read_status("ready")
        if wait:
            front.wait_ready()
        yield front
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(5)
        with contextlib.suppress(OSError):
            os.close(reading)


def make_spec(tokenizer: Path, engine_socket: Path, **changes: Any) -> ServeSpec:
    settings: dict[str, Any] = {
        "name": "test",
        "model_names": ("test-model", "alias"),
        "engine_socket": str(engine_socket),
        "tokenizer_path": str(tokenizer),
        "chat_template": CHATML,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "limits": Limits(),
        "created": 1700000000,
    }
    return ServeSpec(**(settings | changes))


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
