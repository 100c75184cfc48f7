"""ASGI middlewares, outermost first: request id and errors, Host, body size, key; and the check of content types."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploykit.server.answer import log_fault
from deploykit.server.call import Call, ClientGone, send_error
from deploykit.server.errors import CLIENT_CLOSED, ApiError, internal
from deploykit.server.metrics import Metrics

log = logging.getLogger("deploykit.server")

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class Outermost:
    """Gives every request an id and a line in the log, and every failure its answer. Nothing gets past it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        request_id = _header(scope, b"x-request-id") or ""
        if not _GIVEN_ID.fullmatch(request_id):
            request_id = secrets.token_hex(12)
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message = {**message, "headers": headers}
            await send(message)

        call = Call(scope, receive, tagged, request_id)
        scope["deploykit.call"] = call
        scope["app"] = self  # with it the router raises where it would answer in plain text
        self._metrics.in_flight += 1
        try:
            await self._app(scope, receive, tagged)
        except ClientGone:
            status = CLIENT_CLOSED
        except Exception as error:
            if status:
                log_fault(error, request_id)
                return  # half an answer is out: uvicorn closes the connection where one isn't completed
            call.notes["error"] = (api := _answer_for(error, request_id)).code
            await send_error(tagged, api)
        finally:
            self._metrics.in_flight -= 1
            self._log(call, status)

    def _log(self, call: Call, status: int) -> None:
        path = call.scope["path"]
        route = (
            path
            if path in self._routes
            else "/v1/models/{model}"
            if path.startswith("/v1/models/")
            else "other"
        )
        self._metrics.request(route, status)
        quiet = route.startswith("/health") or (status == 200 and route == "/metrics")
        notes = "".join(f" {key}={value}" for key, value in call.notes.items())
        seconds = time.monotonic() - call.arrived
        # The path is the client's: a name outside the routes isn't repeated.
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %s %.3fs %s%s",
            call.scope["method"],
            route,
            status,
            seconds,
            call.request_id,
            notes,
        )


def _answer_for(error: Exception, request_id: str) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        message = {
            404: "There is no such route; those of the API begin with /v1, such as /v1/chat/completions.",
            405: "The route doesn't know this method.",
        }
        text = message.get(error.status_code, error.detail)
        code = {404: "route_not_found", 405: "method_not_allowed"}.get(error.status_code)
        return ApiError(error.status_code, text, code=code, headers=dict(error.headers or {}))
    log_fault(error, request_id)
    return internal(request_id)


class HostGuard:
    """On a loopback address only loopback names may be asked for: a web page can't get here by rebinding its DNS."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._allowed = frozenset({*_LOOPBACK, host.lower()}) if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._allowed is not None:
            hosts = _headers(scope, b"host")
            if len(hosts) != 1 or _host_name(hosts[0]) not in self._allowed:
                raise ApiError(
                    403,
                    "This server answers to localhost and 127.0.0.1 alone (the Host header names another).",
                    code="host_not_allowed",
                )
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses a body over `limit` bytes: by its announced length, or as soon as more has come."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _header(scope, b"content-length") if scope["type"] == "http" else None
        if length is not None and int(length) > self._limit:  # the HTTP parser has seen that it is a number
            raise self._error()
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._limit:
                    raise self._error()
            return message

        if "deploykit.call" in scope:
            scope["deploykit.call"].receive = counted
        await self._app(scope, counted, send)

    def _error(self) -> ApiError:
        return ApiError(413, f"The body is over the limit of {self._limit} bytes.", code="body_too_large")


class KeyGuard:
    """Asks for an API key on every path but the health checks', known or not. No keys: everything is open."""

    OPEN = frozenset({"/health", "/health/live", "/health/ready", "/health/startup"})

    def __init__(self, app: ASGIApp, key_hashes: Sequence[str]) -> None:
        self._app = app
        self._hashes = [value.lower().encode() for value in key_hashes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._hashes and scope["path"] not in self.OPEN:
            given = _headers(scope, b"authorization")
            if len(given) != 1 or not self._known(given[0]):
                raise ApiError(
                    401,
                    "Give an API key: `Authorization: Bearer KEY`."
                    if not given
                    else "The API key is not valid.",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
        await self._app(scope, receive, send)

    def _known(self, value: bytes) -> bool:
        scheme, _, key = value.partition(b" ")
        digest = hashlib.sha256(key.strip()).hexdigest().encode()
        found = False
        for known in self._hashes:  # all of them, in the same time whichever matches
            found |= hmac.compare_digest(digest, known)
        return found and scheme.lower() == b"bearer"


def require_json(scope: Scope) -> None:
    """A POST carries JSON and says so: a web page can't send that to another site without being asked first."""
    kind = (_header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "The body must be JSON: send `Content-Type: application/json`.", code="not_json")
    if (_header(scope, b"content-encoding") or "identity").lower() != "identity":
        raise ApiError(415, "A compressed body is not accepted.", code="content_encoding")


def is_loopback(host: str) -> bool:
    return host.lower() in _LOOPBACK or host.startswith("127.")


def _host_name(value: bytes) -> str:
    """The name of a Host header, without its port; empty for anything that is no plain name."""
    match = re.fullmatch(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?", value.decode("latin-1"))
    return match[1].lower() if match else ""


def _headers(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _header(scope: Scope, name: bytes) -> str | None:
    values = _headers(scope, name)
    return values[0].decode("latin-1") if values else None
