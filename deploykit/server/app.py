"""The application: routes inside their guards. Pure ASGI throughout, so that cancelling works at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from deploykit.server.call import Call
from deploykit.server.chat import chat_completions
from deploykit.server.client import EngineBusy, EngineUnavailable
from deploykit.server.completions import completions
from deploykit.server.guards import BodyLimit, HostGuard, KeyGuard, Outermost, require_json
from deploykit.server.health import live, ready, startup, version
from deploykit.server.models import get_model, list_models
from deploykit.server.pages import STATIC, metrics, openapi_document, static_file
from deploykit.server.routes import ROUTES
from deploykit.server.service import Service

Handler = Callable[[Call, Service], Awaitable[None]]

_HANDLERS: dict[str, Handler] = {
    "chat_completions": chat_completions,
    "completions": completions,
    "list_models": list_models,
    "get_model": get_model,
    "health": ready,
    "health_live": live,
    "health_ready": ready,
    "health_startup": startup,
    "metrics": metrics,
    "version": version,
    "openapi_document": openapi_document,
    "docs": static_file,
}


class _Endpoint:
    """A handler as an ASGI application."""

    def __init__(self, handler: Handler, service: Service) -> None:
        self._handler = handler
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["deploykit.call"]
        call.scope = scope  # with what the router found in the path
        if scope["method"] == "POST":
            require_json(scope)
        try:
            await self._handler(call, self._service)
        except (EngineBusy, EngineUnavailable) as error:
            if (answer := self._service.api_error(error, call.request_id)) is not None:
                raise answer from None
            raise


def make_app(service: Service) -> ASGIApp:
    """The whole application; its lifespan starts and stops the engine's client."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Router) -> AsyncIterator[None]:
        await service.client.start()
        lag = asyncio.create_task(service.watch_lag())
        try:
            yield
        finally:
            lag.cancel()
            await service.client.close()
            service.workers.shutdown(wait=False, cancel_futures=True)

    routes = [
        Route(
            info.path.replace("{model}", "{model:path}"),  # a model's id may have a slash
            _Endpoint(_HANDLERS[info.name], service),
            methods=[info.method],
            name=info.name,
        )
        for info in ROUTES
    ]
    documented = {info.path for info in ROUTES}
    routes += [
        Route(path, _Endpoint(static_file, service), methods=["GET"])
        for path in STATIC
        if path not in documented
    ]
    spec = service.spec
    app: ASGIApp = Router(routes, redirect_slashes=False, lifespan=lifespan)
    app = KeyGuard(app, spec.api_key_hashes)
    app = BodyLimit(app, spec.limits.max_body)
    app = HostGuard(app, spec.host)
    return Outermost(app, service.metrics, frozenset({*documented, *STATIC}))
