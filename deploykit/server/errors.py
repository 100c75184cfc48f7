"""Errors as OpenAI's clients know them, and the statuses that this server promises (docs/server.md)."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from deploykit.prompt.errors import PromptError, PromptTooLong

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
CLIENT_CLOSED = 499  # logged where the client went away; never sent


class ApiError(Exception):
    """An answer that is an error. `param` names the request's field, `code` is stable for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, round(retry_after)))
        if status in (500, 504):
            self.headers["x-should-retry"] = "false"  # the same request would fail again, at the same cost

    @property
    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, why: str) -> ApiError:
    """A field of the API that would change the result and that this server doesn't honour."""
    return bad_request(f"`{param}` is not supported: {why}", param=param, code="unsupported_parameter")


def internal(request_id: str) -> ApiError:
    """A fault of the server. Its cause is in the log under the request's id, not in the answer."""
    return ApiError(500, f"Internal server error (request {request_id}).", code="internal_error")


def from_prompt(error: PromptError) -> ApiError:
    if isinstance(error, PromptTooLong):
        return bad_request(error.message, code="context_length_exceeded", param="messages")
    return bad_request(error.message, code=error.code, param="messages")


def from_engine(code: str, reason: str, request_id: str, retry_after: float) -> ApiError:
    """A `Failed` message of the engine as an answer."""
    if code == "too_long":
        return bad_request(f"{_sentence(reason)}.", code="context_length_exceeded")
    if code in ("invalid", "unsupported"):
        return bad_request(f"{_sentence(reason)}.", code=code)
    if code == "timeout":
        return ApiError(504, "The request took longer than the server allows.", code="request_timeout")
    if code == "slow_client":
        return ApiError(408, "The client reads more slowly than the answer is made.", code="slow_client")
    if code == "overloaded":
        return queue_full(retry_after)
    if code == "draining":
        return draining(retry_after)
    return internal(request_id)


def queue_full(retry_after: float) -> ApiError:
    return ApiError(429, "The queue is full; try again later.", code="queue_full", retry_after=retry_after)


def draining(retry_after: float) -> ApiError:
    return ApiError(503, "The server is shutting down.", code="server_draining", retry_after=retry_after)


def from_validation(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a request's body, in a sentence that names its field."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    kind, text = first["type"], first["msg"]
    if kind == "json_invalid":
        return bad_request(
            f"The body is no valid JSON: {text.removeprefix('Invalid JSON: ')}.", code="invalid_json"
        )
    if kind == "model_type" and not first["loc"]:
        return bad_request("The body must be a JSON object.", code="invalid_json")
    param = field_path(first["loc"])
    if kind == "missing":
        return bad_request(f"`{param}` is required.", param=param, code="missing_required_parameter")
    return bad_request(f"`{param}`: {text}.", param=param, code="invalid_value")


def field_path(loc: tuple[int | str, ...]) -> str:
    """`("messages", 0, "content")` -> `messages[0].content`. Names that pydantic gives to variants are left out."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.startswith("<"):
            continue  # the tag of a union's variant (schema.py)
        elif part != "[key]":
            path += f".{part}" if path else part
    return path[:100]  # keys of the request's objects may be of any length


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
