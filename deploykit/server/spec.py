"""What the front process is started with: one JSON file, 0600, written by the supervisor's side."""

from __future__ import annotations

from typing import Literal

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    max_body: int = 32 << 20  # bytes
    max_queue: int = 256
    request_timeout: float = 600.0  # seconds
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    idle_timeout: float = 75.0
    max_connections: int = 2048
    max_tokens: int | None = None  # None = what the session leaves
    max_n: int = 8
    max_prompts: int = 32
    max_stop: int = 16


class ChatDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """Used where a request leaves them out; None = the checkpoint's generation_config, else the field's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


class ServeSpec(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    model_names: tuple[str, ...]  # ids of /v1/models; the first is the default
    engine_socket: str  # Unix socket path of the engine process
    tokenizer_path: str  # tokenizer.json
    chat_template: str | None  # Jinja source; None = chat refused, completions work, unless `template_python`
    template_name: str = ""
    template_python: str | None = None  # a file or module of the user's own that registers `template_name`
    template_stops: tuple[str, ...] = ()  # texts and control tokens that end an answer to a chat
    no_chat: str | None = None  # why chat is refused
    capability: Literal["chat", "completion", "infilling", "python"] = "chat"
    system: str | None = None  # system message put first where a conversation has none
    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool = False  # plain completions start with BOS
    defaults: ChatDefaults = ChatDefaults()
    limits: Limits = Limits()
    api_key_hashes: tuple[str, ...] = ()  # sha256 hex of each key; empty = no key asked for
    host: str = "127.0.0.1"
    port: int = 23333
    drain_timeout: float = 30.0
    log_level: str = "info"
    created: int = 0  # Unix seconds, for /v1/models
