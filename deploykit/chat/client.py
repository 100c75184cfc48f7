"""A small client of the OpenAI-compatible endpoint: streamed chat, aborted by closing the socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from deploykit.chat.sanitize import sanitize
from deploykit.chat.sse import SSEError, SSEParser
from deploykit.errors import ConfigError, DeploykitError

CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 900.0  # seconds without a byte; a long prompt on a small CPU takes minutes
MAX_REPLY = 64 << 20  # bytes of an answer that isn't a stream
MAX_ERROR = 64 << 10  # bytes of an error's body

_FIXES = {
    401: "set DEPLOYKIT_API_KEY to a key that this server accepts",
    403: "set DEPLOYKIT_API_KEY to a key that this server accepts",
    404: "`/model` lists what is served; check the URL",
    429: "the queue is full: try again in a moment",
    503: "the engine is starting or restarting: try again in a moment",
}


def base_url(url: str) -> str:
    """The API's root for a URL as typed: `http://host:port`, `…/v1/chat/completions` become `…/v1`."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"not a URL: {url}", why=str(error)) from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"not a URL of a server: {url}", fix="such as http://127.0.0.1:23333")
    if parts.username or parts.password:
        raise ConfigError("a URL may not carry a password", fix="put the key into DEPLOYKIT_API_KEY")
    if parts.query or parts.fragment:
        raise ConfigError(f"a base URL has no query and no fragment: {url}")
    path = parts.path.rstrip("/")
    for ending in ("/chat/completions", "/completions", "/models"):
        path = path.removesuffix(ending)
    return urlunsplit((parts.scheme, parts.netloc, path or "/v1", "", ""))


@dataclass(frozen=True)
class Delta:
    """One event of a streamed answer. `usage` and `finish` come on the last ones."""

    text: str = ""
    finish: str | None = None
    usage: dict[str, Any] | None = None
    model: str | None = None


@dataclass(frozen=True)
class Client:
    """`base` as `base_url` gives it. Every method raises DeploykitError for what goes wrong on the way."""

    base: str
    api_key: str | None = field(default=None, repr=False)

    def models(self) -> list[str]:
        """Ids of /models."""
        try:
            with self._request("GET", "/models", None) as reply:
                body = reply.read(MAX_REPLY)
            return [sanitize(str(item["id"])) for item in json.loads(body)["data"]]
        except (KeyError, TypeError, ValueError):
            raise DeploykitError(
                "the server's list of models can't be read", where=f"{self.base}/models"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None

    def stream_chat(self, body: dict[str, Any]) -> Generator[Delta, None, None]:
        """Stream one answer. Closing the iterator closes the socket, which stops the generation."""
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            with self._request("POST", "/chat/completions", body) as reply:
                kind = reply.headers.get_content_type()
                if kind != "text/event-stream":
                    raise DeploykitError(
                        f"the server answered {sanitize(kind)} where a stream was asked for",
                        where=self.base,
                        fix="check that the URL is an OpenAI-compatible server",
                    )
                yield from self._deltas(reply)
        except (OSError, http.client.HTTPException, SSEError) as error:
            raise self._lost(error) from None

    def _deltas(self, reply: http.client.HTTPResponse) -> Iterator[Delta]:
        parser = SSEParser()
        while chunk := reply.read1(1 << 16):
            for event in parser.feed(chunk):
                if event.data == "[DONE]":
                    return
                yield _delta(event.data, self.base)
        raise DeploykitError("the answer ended before it was whole", where=self.base, fix="ask again")

    @contextlib.contextmanager
    def _request(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and give its successful reply; leaving the block closes the socket at once."""
        parts = urlsplit(self.base)
        headers = {"Accept": "application/json, text/event-stream", "User-Agent": "deploykit"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = None
        if body is not None:
            data = json.dumps(body).encode("ascii")  # lone surrogates too get through, escaped
            headers["Content-Type"] = "application/json"
        with contextlib.closing(self._connect()) as connection:
            connection.request(method, parts.path + path, data, headers)
            with contextlib.closing(connection.getresponse()) as reply:
                yield self._check(reply)

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.base)
        host = parts.hostname or ""
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=CONNECT_TIMEOUT, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=CONNECT_TIMEOUT)
        try:
            connection.connect()
            connection.sock.settimeout(READ_TIMEOUT)
        except (OSError, ValueError) as error:
            connection.close()
            raise self._unreachable(error) from None
        return connection

    def _check(self, reply: http.client.HTTPResponse) -> http.client.HTTPResponse:
        """`reply` when it is a success; its error otherwise."""
        if reply.status == 200:
            return reply
        what, why = f"the server answered {reply.status} {sanitize(reply.reason)}", None
        try:
            error = json.loads(reply.read(MAX_ERROR))["error"]
            why = sanitize(str(error["message"] if isinstance(error, dict) else error))
        except (KeyError, TypeError, ValueError):
            pass  # an error body of another shape says nothing that the status doesn't
        if after := reply.headers.get("Retry-After"):
            what += f" (Retry-After: {sanitize(after)})"
        raise DeploykitError(what, where=self.base, why=why, fix=_FIXES.get(reply.status))

    def _unreachable(self, error: Exception) -> DeploykitError:
        if isinstance(error, ssl.SSLError):
            return DeploykitError("no trusted connection to the server", where=self.base, why=str(error))
        fix = "`deploykit ps` lists what is running; `deploykit up RECIPE` starts a server"
        return DeploykitError("no server answers there", where=self.base, why=str(error), fix=fix)

    def _lost(self, error: Exception) -> DeploykitError:
        why = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            why = f"nothing came for {READ_TIMEOUT:.0f} s"
        return DeploykitError(
            "the connection to the server was lost", where=self.base, why=why, fix="try again"
        )


def _delta(data: str, where: str) -> Delta:
    """One event's JSON. An error event, or one that is no chunk, raises DeploykitError."""
    try:
        chunk = json.loads(data)
        if error := chunk.get("error"):
            message = error.get("message") if isinstance(error, dict) else error
            raise DeploykitError(
                "the server broke the answer off", where=where, why=sanitize(str(message)), fix="try again"
            )
        choices = chunk.get("choices") or [{}]
        text = (choices[0].get("delta") or {}).get("content") or ""
        finish, usage, model = choices[0].get("finish_reason"), chunk.get("usage"), chunk.get("model")
        if not isinstance(text, str) or not isinstance(usage, dict | None):
            raise TypeError("content or usage")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DeploykitError("the server sent an event that is no chat chunk", where=where, why=why) from None
    return Delta(text, finish, usage, model)
