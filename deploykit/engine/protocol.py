"""Messages between the front process and the engine process: msgpack, tagged, one version for all of them."""

from __future__ import annotations

from typing import Literal

import msgspec

from deploykit.engine.types import SamplingParams, Span, TokenLogprob

PROTOCOL_VERSION = 1

FinishReason = Literal["stop", "length", "abort"]


class Hello(msgspec.Struct, frozen=True, tag=True):
    """First message of a client; the engine answers `Ready`, at once or when it has loaded."""

    version: int
    client: str = "front"


class Submit(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """`n` sequences over one prompt. `id` is unique for the connection's life."""

    id: str
    token_ids: bytes  # int32[prompt_len]
    sampling: SamplingParams
    n: int = 1
    priority: int = 0  # lower runs first
    deadline_s: float | None = None  # seconds from receipt; past it the request fails with "timeout"
    salt: str = ""  # separates prefix caches
    adapter: str | None = None
    grammar: str | None = None
    images: tuple[Span, ...] = ()


class Abort(msgspec.Struct, frozen=True, tag=True):
    id: str


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Take no new work; what runs goes on."""


class Probe(msgspec.Struct, frozen=True, tag=True):
    """Asks for a `Heartbeat` now."""


class FlushCache(msgspec.Struct, frozen=True, tag=True):
    """Forget every cached prefix that no running request uses."""


class LoadAdapter(msgspec.Struct, frozen=True, tag=True):
    name: str
    path: str


class UnloadAdapter(msgspec.Struct, frozen=True, tag=True):
    name: str


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The engine takes work. `credits` is how many requests may be unfinished at once (running and queued)."""

    version: int
    engine: str
    device: str
    dtype: str
    max_rows: int
    session_len: int
    vocab_size: int
    block_len: int
    num_blocks: int
    credits: int
    bytes_predicted: int
    bytes_measured: int
    weight_bytes: int = 0  # of that: weights and tables
    block_bytes: int = 0  # of one KV block
    head_error: float | None = None  # of an int8 output head: its weights' error over their size


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """New tokens of sequence `index` of request `id`."""

    id: str
    index: int = 0
    tokens: bytes = b""  # int32, new since the last output
    finish: FinishReason | None = None
    stop_token: bool = False  # the last token is an EOS or stop id: it is not text
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    prompt_tokens: int = 0  # set on a sequence's first output
    cached_tokens: int = 0  # prompt tokens that came from the prefix cache; set on the first output


class StepOutputs(msgspec.Struct, frozen=True, tag=True):
    """All outputs of one step, in one message."""

    outputs: tuple[Output, ...]


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A request ended with an error. `code`: invalid | too_long | timeout | unsupported | internal | draining."""

    id: str
    code: str
    reason: str


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """About once a second, also while a step computes. `phase`: weights | engine | kv | warmup | idle | step."""

    phase: str
    progress: float = 0.0  # 0..1 within a loading phase
    expected_s: float = 0.0  # how long the phase may take before it counts as a hang
    step: int = 0
    running: int = 0
    waiting: int = 0
    blocks_total: int = 0
    blocks_used: int = 0  # held by running requests
    blocks_cached: int = 0  # free but holding a cached prefix
    preemptions: int = 0
    prompt_tokens: int = 0  # computed since start
    cached_tokens: int = 0  # served from the prefix cache since start
    output_tokens: int = 0
    aborted: int = 0
    failed: int = 0


ToEngine = Hello | Submit | Abort | Drain | Probe | FlushCache | LoadAdapter | UnloadAdapter
ToFront = Ready | StepOutputs | Failed | Heartbeat

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_to_front = msgspec.msgpack.Decoder(ToFront).decode
