"""Runs one generation to its answer: streamed or whole, watched for the client, the clock and the end of the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from pathlib import Path
from typing import Any, Protocol

from deploykit.server.call import Call, ClientGone, EventStream
from deploykit.server.choice import Delta
from deploykit.server.drain import CUT_OFF
from deploykit.server.errors import ApiError, internal
from deploykit.server.generation import Generation
from deploykit.server.service import Service

log = logging.getLogger("deploykit.server")

KEEP_ALIVE = 10.0  # seconds without an event after which a comment is sent


class Format(Protocol):
    """How deltas look in a dialect. `take` sees every delta, in both modes, before anything is asked for."""

    def take(self, delta: Delta) -> None: ...

    def first_events(self) -> list[dict[str, Any]]: ...

    def events(self, delta: Delta) -> list[dict[str, Any]]: ...

    def last_events(self) -> list[dict[str, Any]]: ...

    def body(self) -> dict[str, Any]: ...


async def answer(call: Call, service: Service, generation: Generation, form: Format, *, stream: bool) -> None:
    """Send the answer. Raises ApiError while nothing has been sent, ClientGone where nobody is left to answer."""
    events = EventStream(call.send)
    limit = service.spec.limits.request_timeout
    with service.drain.work() as cut:
        work = asyncio.create_task(_run(call, generation, form, events if stream else None))
        gone = asyncio.create_task(call.disconnected())
        stopped = asyncio.create_task(cut.wait())
        tasks = [work, gone, stopped]
        if stream:
            tasks.append(asyncio.create_task(events.keep_alive(KEEP_ALIVE)))
        error: BaseException | None = None
        try:
            await asyncio.wait([work, gone, stopped], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                error = work.exception()
            elif gone.done():
                service.metrics.aborts["disconnect"] += 1
                error = ClientGone()
            elif stopped.done():
                service.metrics.aborts["drain"] += 1
                error = CUT_OFF
            else:
                service.metrics.aborts["timeout"] += 1
                error = ApiError(504, f"The request took longer than {limit:g} s.", code="request_timeout")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            call.notes |= {
                "prompt": generation.usage.prompt_tokens,
                "cached": generation.usage.cached_tokens,
                "output": generation.usage.completion_tokens,
            }
        if error is not None:
            await _fail(call, service, error, events)


async def _run(call: Call, generation: Generation, form: Format, events: EventStream | None) -> None:
    first = True
    async with contextlib.aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            form.take(delta)
            if events is not None:
                await events.events((form.first_events() if first else []) + form.events(delta))
                first = False
    if events is None:
        await call.json(form.body())
    else:
        await events.events(form.last_events())
        await events.finish(done=True)


async def _fail(call: Call, service: Service, error: BaseException, events: EventStream) -> None:
    if isinstance(error, ClientGone):
        raise error
    api = service.api_error(error, call.request_id)
    if api is None:
        log_fault(error, call.request_id)
        api = internal(call.request_id)
    if not events.started:
        raise api
    # The status is out already. Clients take the end without [DONE], and the event before it, as a failure.
    call.notes["error"] = api.code
    await events.events([api.body])
    await events.finish(done=False)


def log_fault(error: BaseException, request_id: str) -> None:
    """A fault of ours, with its place but without its message: that could quote what the client sent."""
    places = traceback.extract_tb(error.__traceback__)[-6:]
    trail = " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(places)
    )
    log.error("%s failed: %s at %s", request_id, type(error).__name__, trail)
