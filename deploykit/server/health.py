"""Health checks. Liveness never depends on the engine: a busy or loading server is alive."""

from __future__ import annotations

from typing import Any

import deploykit
from deploykit.server.call import Call, encode_json, send_bytes
from deploykit.server.service import MAX_LOOP_LAG, Service


async def live(call: Call, service: Service) -> None:
    """200 while the front process answers in time."""
    ok = service.loop_lag < MAX_LOOP_LAG
    await _answer(call, ok, {"status": "alive" if ok else "late", "loop_lag_s": round(service.loop_lag, 3)})


async def ready(call: Call, service: Service) -> None:
    """200 while new requests are taken."""
    status = _status(service)
    body = {"status": status}
    if status in ("starting", "restarting"):
        body |= _progress(service)
    await _answer(call, status == "ready", body)


async def startup(call: Call, service: Service) -> None:
    """200 once the engine has been ready for the first time; before, how far it is."""
    started = service.client.state.connections > 0
    body: dict[str, Any] = {"status": "started"} if started else {"status": "starting", **_progress(service)}
    await _answer(call, started, body)


async def version(call: Call, service: Service) -> None:
    engine = service.client.state.ready
    await call.json(
        {
            "version": deploykit.__version__,
            "engine": engine.engine if engine is not None else None,
            "device": engine.device if engine is not None else None,
            "dtype": engine.dtype if engine is not None else None,
        }
    )


def _status(service: Service) -> str:
    state = service.client.state
    if service.drain.started:
        return "draining"
    if state.phase == "ready":
        return "stuck" if state.stuck else "ready"
    return "restarting" if state.connections > 0 else "starting"


def _progress(service: Service) -> dict[str, Any]:
    """The engine's loading stage, and how much of it is done (0 to 1)."""
    state = service.client.state
    if state.phase != "loading" or state.heartbeat is None:
        return {"stage": "connecting", "fraction": 0.0}
    return {"stage": state.heartbeat.phase, "fraction": round(state.heartbeat.progress, 4)}


async def _answer(call: Call, ok: bool, body: dict[str, Any]) -> None:
    headers = [(b"cache-control", b"no-store")]
    if not ok:
        headers.append((b"retry-after", b"1"))
    await send_bytes(call.send, 200 if ok else 503, encode_json(body), b"application/json", headers)
