"""/openapi.json, /docs, /metrics, /v1/models, /version: what they say is true."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import jsonschema
import openai
import pytest
from server_harness import Front, StandInEngine

import deploykit

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def document(front: Front) -> dict[str, Any]:
    return front.get("/openapi.json").json()


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A self-contained schema for jsonschema."""
    return json.loads(json.dumps({**schema, "components": document["components"]}))


def test_it_has_every_route(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert sorted(document["paths"]) == sorted(
        [
            "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}", "/health", "/health/live",
            "/health/ready", "/health/startup", "/metrics", "/version", "/openapi.json", "/docs",
        ]
    )  # fmt: skip
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert "200" in operation["responses"]
    text = json.dumps(document)
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        jsonschema.Draft202012Validator.check_schema(document["components"]["schemas"][name])


def unbounded(schema: dict[str, Any], path: str) -> list[str]:
    """Places in a request's schema where a number, list, string or object has no bound."""
    found = []
    kind = schema.get("type")
    if "enum" in schema or "const" in schema:
        return []
    if kind in ("integer", "number") and not (
        {"minimum", "exclusiveMinimum"} & schema.keys() and {"maximum", "exclusiveMaximum"} & schema.keys()
    ):
        found.append(path)
    if kind == "string" and not {"maxLength", "pattern"} & schema.keys():
        found.append(path)
    if kind == "array" and "maxItems" not in schema:
        found.append(path)
    if (
        kind == "object"
        and "additionalProperties" in schema
        and "properties" not in schema
        and "maxProperties" not in schema
    ):
        found.append(path)
    for key in ("anyOf", "oneOf"):
        for number, variant in enumerate(schema.get(key, ())):
            found += unbounded(variant, f"{path}/{key}{number}")
    for name, child in schema.get("properties", {}).items():
        found += unbounded(child, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        found += unbounded(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        found += unbounded(schema["additionalProperties"], f"{path}{{}}")
    return found


def test_every_field_of_a_request_is_bounded(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("ChatCompletionRequest", "CompletionRequest", "Message", "TextPart", "StreamOptions"):
        assert unbounded(schemas[name], name) == []


def test_the_operators_limits_are_in_it(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["ChatCompletionRequest"]["properties"]["n"]["anyOf"][0]["maximum"] == 8
    variants = schemas["CompletionRequest"]["properties"]["prompt"]["oneOf"]
    assert [v.get("maxItems") for v in variants] == [None, 32, 1 << 20, 32]


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [
        (
            "/v1/chat/completions",
            {"messages": USER, "logprobs": True, "top_logprobs": 2, "prompt_logprobs": 1},
            "ChatCompletion",
        ),
        ("/v1/chat/completions", {"messages": USER}, "ChatCompletion"),
        ("/v1/completions", {"prompt": ["a", "b c"], "logprobs": 1, "echo": True}, "Completion"),
        ("/v1/completions", {"prompt": "a", "prompt_logprobs": 0}, "Completion"),
        ("/v1/completions", {"prompt": ""}, "ErrorResponse"),
    ],
)
def test_answers_have_the_documented_shape(
    front: Front, engine: StandInEngine, document: dict[str, Any], path: str, body: dict[str, Any], shape: str
) -> None:
    request = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate(body, resolve(document, request))
    jsonschema.validate(
        front.post(path, body).json(), resolve(document, document["components"]["schemas"][shape])
    )


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [
        (
            "/v1/chat/completions",
            {"messages": USER, "logprobs": True, "stream_options": {"include_usage": True}},
            "ChatCompletionChunk",
        ),
        (
            "/v1/completions",
            {"prompt": "a", "logprobs": 1, "stream_options": {"include_usage": True}},
            "Completion",
        ),
    ],
)
def test_chunks_have_the_documented_shape(
    front: Front, engine: StandInEngine, document: dict[str, Any], path: str, body: dict[str, Any], shape: str
) -> None:
    lines = front.post(path, {**body, "stream": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    for line in lines[:-2]:
        jsonschema.validate(
            json.loads(line.removeprefix("data: ")),
            resolve(document, document["components"]["schemas"][shape]),
        )


def test_get_answers_have_the_documented_shape(front: Front, document: dict[str, Any]) -> None:
    for path in (
        "/v1/models",
        "/v1/models/{model}",
        "/health",
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/version",
    ):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        reply = front.get(path.replace("{model}", "alias"))
        assert reply.status_code == 200
        jsonschema.validate(reply.json(), resolve(document, schema))


def test_models(client: openai.OpenAI) -> None:
    assert [(model.id, model.created) for model in client.models.list()] == [
        ("test-model", 1700000000),
        ("alias", 1700000000),
    ]
    assert client.models.retrieve("alias").id == "alias"


def test_version(front: Front, engine: StandInEngine) -> None:
    assert front.get("/version").json()["version"] == deploykit.__version__


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        self.inline |= tag == "style" or (tag == "script" and "src" not in attributes)
        self.inline |= any(name == "style" or name.startswith("on") for name in attributes)


def test_the_page_loads_nothing_from_elsewhere(front: Front) -> None:
    page = front.get("/docs")
    assert page.status_code == 200
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in page.headers["content-security-policy"]
    parser = _Links()
    parser.feed(page.text)
    assert not parser.inline
    assert sorted(parser.links) == ["/docs/docs.css", "/docs/docs.js", "/openapi.json", "data:,"]
    for path, kind in (("/docs/docs.js", "text/javascript"), ("/docs/docs.css", "text/css")):
        reply = front.get(path)
        assert reply.headers["content-type"].startswith(kind)
        assert not re.search(r"https?://|//[a-z]+\.", reply.text)
        assert "innerHTML" not in reply.text


def samples(text: str) -> dict[str, float]:
    """Prometheus' text format, read strictly."""
    found: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            match = re.fullmatch(r'([a-z0-9_]+)(\{(?:[a-z]+="[^"]*",?)+\})? (\S+)', line)
            assert match, line
            base = re.sub(r"_(bucket|sum|count)$", "", match[1])
            assert match[1] in kinds or kinds.get(base) == "histogram", line
            found[match[1] + (match[2] or "")] = float(match[3])
    return found


def test_metrics(front: Front, engine: StandInEngine) -> None:
    engine.script.cached = 2
    before = samples(front.get("/metrics").text)
    front.post("/v1/chat/completions", {"messages": USER})
    front.post("/v1/chat/completions", {"messages": USER, "stream": True})
    front.post("/v1/chat/completions", {"messages": []})
    reply = front.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    after = samples(reply.text)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown('deploykit_requests_total{route="/v1/chat/completions",status="200"}') == 2
    assert grown('deploykit_requests_total{route="/v1/chat/completions",status="400"}') == 1
    tokens = len(engine.tokenizer.encode(engine.script.reply).ids) + 1
    assert grown("deploykit_output_tokens_total") == 2 * tokens
    assert grown("deploykit_prompt_cached_tokens_total") == 4
    assert grown("deploykit_time_to_first_token_seconds_count") == 2
    assert grown("deploykit_inter_token_latency_seconds_count") == 2 * (tokens - 1)
    assert grown("deploykit_e2e_request_latency_seconds_count") == 2
    assert grown('deploykit_e2e_request_latency_seconds_bucket{le="+Inf"}') == 2
    assert after["deploykit_engine_up"] == 1
    assert after['deploykit_kv_blocks{state="total"}'] == 64
    for name in (
        "requests_running",
        "requests_waiting",
        "preemptions_total",
        "prefix_cache_hit_tokens_total",
    ):
        assert f"deploykit_{name}" in after
