"""What every route works with: the model's tokenizer and template, the engine's client, the books."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from deploykit.prompt.templates.infill import InfillTokens
from deploykit.prompt.templates.open import Template, open_template
from deploykit.prompt.templates.stops import NO_STOPS, TemplateStops, template_stops
from deploykit.prompt.tokenizer import Tokenizer
from deploykit.server.client import EngineBusy, EngineClient, EngineUnavailable, RequestFailed
from deploykit.server.drain import Drain
from deploykit.server.errors import ApiError, from_engine, queue_full
from deploykit.server.metrics import Metrics
from deploykit.server.spec import ServeSpec

T = TypeVar("T")
log = logging.getLogger("deploykit.server")

MAX_LOOP_LAG = 2.0  # seconds; beyond, the process doesn't count as alive
_LAG_PERIOD = 0.25


@dataclass
class Service:
    """One front process. Everything here lives as long as it does."""

    spec: ServeSpec
    tokenizer: Tokenizer
    template: Template | None
    client: EngineClient
    template_stops: TemplateStops = NO_STOPS  # of an answer to a chat
    infill: InfillTokens | None = None  # where chat.capability is infilling
    metrics: Metrics = field(default_factory=Metrics)
    drain: Drain = field(default_factory=Drain)
    workers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=4, thread_name_prefix="prompt")
    )
    count_connections: Callable[[], int] = lambda: 0
    loop_lag: float = 0.0  # seconds the event loop was late, the last time it was looked at

    @classmethod
    def from_spec(cls, spec: ServeSpec) -> Service:
        """Load the tokenizer and compile the template. Raises ConfigError."""
        tokenizer = Tokenizer.from_file(spec.tokenizer_path)
        template = open_template(
            source=spec.chat_template,
            python=spec.template_python,
            name=spec.template_name,
            stop_words=spec.template_stops,
            bos_token=spec.bos_token,
            eos_token=spec.eos_token,
            add_bos=spec.add_bos,
            special_tokens=tokenizer.special_tokens,
        )
        service = cls(spec, tokenizer, template, EngineClient(spec.engine_socket))
        if template is not None:
            service.template_stops = template_stops(template.stop_words, tokenizer)
        if spec.capability == "infilling":
            service.infill = InfillTokens.find(tokenizer)
        return service

    @property
    def bos_id(self) -> int | None:
        """The token that plain completions start with; None where the model has none."""
        if not self.spec.add_bos or self.spec.bos_token is None:
            return None
        return self.tokenizer.token_id(self.spec.bos_token)

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Run CPU work in a worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self.workers, work)

    async def watch_lag(self) -> None:
        """Measure how late the event loop runs, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_PERIOD
            await asyncio.sleep(_LAG_PERIOD)
            self.loop_lag = loop.time() - due

    def api_error(self, error: BaseException, request_id: str) -> ApiError | None:
        """An answer for what the engine's client raised; None for anything else."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, EngineBusy):
            return queue_full(self.client.retry_after())
        if isinstance(error, EngineUnavailable):
            return ApiError(503, str(error), code=error.code, retry_after=2)
        if isinstance(error, RequestFailed):
            if error.code == "internal":
                log.error("%s: the engine gave up on it: %s", request_id, error.reason)
            return from_engine(error.code, error.reason, request_id, self.client.retry_after())
        return None
