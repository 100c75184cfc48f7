"""/openapi.json, /metrics, and the page at /docs: plain HTML and JavaScript that load nothing from elsewhere."""

from __future__ import annotations

from importlib import resources

from deploykit.server.call import Call, encode_json, send_bytes
from deploykit.server.metrics import CONTENT_TYPE
from deploykit.server.openapi import openapi
from deploykit.server.service import Service

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STATIC = {
    "/docs": ("docs.html", b"text/html; charset=utf-8"),
    "/docs/docs.js": ("docs.js", b"text/javascript; charset=utf-8"),
    "/docs/docs.css": ("docs.css", b"text/css; charset=utf-8"),
}


async def metrics(call: Call, service: Service) -> None:
    text = service.metrics.render(service.client.state, connections=service.count_connections())
    await send_bytes(call.send, 200, text.encode(), CONTENT_TYPE.encode())


async def openapi_document(call: Call, service: Service) -> None:
    await send_bytes(call.send, 200, encode_json(openapi(service.spec)), b"application/json")


async def static_file(call: Call, service: Service) -> None:
    """One of the files of the page; the names are fixed, no path of the client's is looked up."""
    name, kind = STATIC[call.scope["path"]]
    data = (resources.files("deploykit.server") / "static" / name).read_bytes()
    headers = [
        (b"content-security-policy", _POLICY),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-cache"),
    ]
    await send_bytes(call.send, 200, data, kind, headers)
