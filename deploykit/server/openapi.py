"""The OpenAPI 3.1 document, from the models that validate the requests: every bound is in it."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

import deploykit
from deploykit.server.responses import all_shapes
from deploykit.server.routes import ROUTES, RouteInfo
from deploykit.server.schema import ChatCompletionRequest, CompletionRequest
from deploykit.server.spec import ServeSpec

_REQUESTS = {model.__name__: model for model in (ChatCompletionRequest, CompletionRequest)}
_REF = "#/components/schemas/"
_ERRORS = {
    400: "The request is invalid; `param` names the field.",
    401: "No API key, or an unknown one.",
    403: "The Host header names another server.",
    404: "No such route or model.",
    405: "The route doesn't know this method.",
    408: "The header or the body took too long.",
    413: "The body is too large.",
    415: "The body isn't `application/json`.",
    429: "The queue is full: come back after `Retry-After` seconds.",
    500: "A fault of the server; its log has the cause under the request's id.",
    503: "Starting, restarting, draining or too many connections: come back after `Retry-After` seconds.",
    504: "The request took longer than the server allows.",
}
_OF_ALL = (403, 405, 408, 500, 503)
_OF_POST = (400, 404, 413, 415, 429, 504)


def openapi(spec: ServeSpec) -> dict[str, Any]:
    """The document for one deployment: with its limits, models, and whether it asks for a key."""
    _, definitions = models_json_schema(
        [
            *((model, "validation") for model in _REQUESTS.values()),
            *((model, "serialization") for model in all_shapes().values()),
        ],
        ref_template=_REF + "{model}",
    )
    schemas = definitions["$defs"]
    for name in _REQUESTS:
        _apply_limits(schemas[name]["properties"], spec)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"deploykit: {spec.name}",
            "version": deploykit.__version__,
            "description": "An OpenAI-compatible endpoint. Errors have OpenAI's shape; see the server's manual.",
        },
        "servers": [{"url": "/"}],
        "paths": {},
        "components": {"schemas": schemas},
    }
    for route in ROUTES:
        operations = document["paths"].setdefault(route.path, {})
        operations[route.method.lower()] = _operation(route, keyed=bool(spec.api_key_hashes))
    if spec.api_key_hashes:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _apply_limits(properties: dict[str, Any], spec: ServeSpec) -> None:
    """The operator's limits are tighter than the models' own."""
    limits = spec.limits
    _bound(properties["n"], "integer", "maximum", limits.max_n)
    _bound(properties["stop"], "array", "maxItems", limits.max_stop)
    properties["model"]["examples"] = list(spec.model_names)
    if "prompt" in properties:
        for variant in properties["prompt"]["oneOf"]:
            if variant.get("items", {}).get("type") in ("string", "array"):
                _bound(variant, "array", "maxItems", limits.max_prompts)
    if limits.max_tokens is not None:
        for name in ("max_tokens", "max_completion_tokens"):
            if name in properties:
                _bound(properties[name], "integer", "maximum", limits.max_tokens)


def _bound(schema: dict[str, Any], kind: str, key: str, value: int) -> None:
    """Lower a bound wherever in a (possibly nullable, possibly nested) schema its type stands."""
    if schema.get("type") == kind:
        schema[key] = min(value, schema.get(key, value))
    for variant in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        _bound(variant, kind, key, value)


def _operation(route: RouteInfo, *, keyed: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.name,
        "tags": [route.tag],
        "responses": {str(status): response for status, response in _responses(route, keyed=keyed)},
    }
    if route.request is not None:
        schema = {"$ref": _REF + route.request}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if "{model}" in route.path:
        operation["parameters"] = [
            {
                "name": "model",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
            }
        ]
    if keyed and not route.open:
        operation["security"] = [{"key": []}]
    return operation


def _responses(route: RouteInfo, *, keyed: bool) -> list[tuple[int, dict[str, Any]]]:
    content: dict[str, Any] = {}
    for kind, shape in route.answers:
        content[kind] = {"schema": {"$ref": _REF + shape} if shape else {"type": "string"}}
    responses = [(200, {"description": "OK", "content": content})]
    statuses = {*_OF_ALL, *(_OF_POST if route.method == "POST" else ()), *route.errors}
    if keyed and not route.open:
        statuses.add(401)
    error = {"application/json": {"schema": {"$ref": _REF + "ErrorResponse"}}}
    for status in sorted(statuses):
        own: dict[str, Any] = error
        if status == 503 and route.tag == "health":
            own = {
                "application/json": {
                    "schema": {"anyOf": [{"$ref": _REF + "Health"}, {"$ref": _REF + "ErrorResponse"}]}
                }
            }
        responses.append((status, {"description": _ERRORS[status], "content": own}))
    return responses
