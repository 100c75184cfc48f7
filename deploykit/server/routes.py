"""The table of routes: what the router, the OpenAPI document and the metrics are made from."""

from __future__ import annotations

from dataclasses import dataclass

JSON = "application/json"


@dataclass(frozen=True)
class RouteInfo:
    method: str
    path: str
    name: str
    summary: str
    tag: str
    answers: tuple[tuple[str, str | None], ...]  # content type -> name of its shape
    request: str | None = None
    errors: tuple[int, ...] = ()
    open: bool = False  # answers without an API key


ROUTES = (
    RouteInfo(
        "POST",
        "/v1/chat/completions",
        "chat_completions",
        "Answer a conversation; a stream of events where `stream` is true",
        "inference",
        ((JSON, "ChatCompletion"), ("text/event-stream", "ChatCompletionChunk")),
        request="ChatCompletionRequest",
    ),
    RouteInfo(
        "POST",
        "/v1/completions",
        "completions",
        "Continue one or more texts; a stream of events where `stream` is true",
        "inference",
        ((JSON, "Completion"), ("text/event-stream", "Completion")),
        request="CompletionRequest",
    ),
    RouteInfo("GET", "/v1/models", "list_models", "What is served", "models", ((JSON, "ModelList"),)),
    RouteInfo(
        "GET", "/v1/models/{model}", "get_model", "One of them", "models", ((JSON, "Model"),), errors=(404,)
    ),
    RouteInfo(
        "GET", "/health", "health", "The same as /health/ready", "health", ((JSON, "Health"),), open=True
    ),
    RouteInfo(
        "GET",
        "/health/live",
        "health_live",
        "200 while the process answers, whatever the engine does",
        "health",
        ((JSON, "Health"),),
        open=True,
    ),
    RouteInfo(
        "GET",
        "/health/ready",
        "health_ready",
        "200 while requests are taken",
        "health",
        ((JSON, "Health"),),
        open=True,
    ),
    RouteInfo(
        "GET",
        "/health/startup",
        "health_startup",
        "200 once the engine has been ready; before, its stage",
        "health",
        ((JSON, "Health"),),
        open=True,
    ),
    RouteInfo("GET", "/metrics", "metrics", "Prometheus metrics", "operation", (("text/plain", None),)),
    RouteInfo(
        "GET", "/version", "version", "Versions of server and engine", "operation", ((JSON, "Version"),)
    ),
    RouteInfo("GET", "/openapi.json", "openapi_document", "This document", "operation", ((JSON, None),)),
    RouteInfo("GET", "/docs", "docs", "This document, to read", "operation", (("text/html", None),)),
)
