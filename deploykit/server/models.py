"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

from typing import Any

from deploykit.server.call import Call
from deploykit.server.params import pick_model, session_room
from deploykit.server.service import Service


async def list_models(call: Call, service: Service) -> None:
    data = [_model(name, service) for name in service.spec.model_names]
    await call.json({"object": "list", "data": data})


async def get_model(call: Call, service: Service) -> None:
    """Raises ApiError (404)."""
    name = pick_model(call.scope["path_params"]["model"], service.spec.model_names)
    await call.json(_model(name, service))


def _model(name: str, service: Service) -> dict[str, Any]:
    ready = service.client.state.ready
    return {
        "id": name,
        "object": "model",
        "created": service.spec.created,
        "owned_by": "deploykit",
        "max_model_len": session_room(ready) if ready is not None else None,
    }
