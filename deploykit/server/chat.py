"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from typing import Any

from pydantic import ValidationError

from deploykit.server.answer import answer
from deploykit.server.call import Call
from deploykit.server.choice import Delta, LogprobEntry
from deploykit.server.errors import bad_request, from_validation
from deploykit.server.generation import Generation, Job
from deploykit.server.logprobs import chat_content, prompt_logprobs
from deploykit.server.params import (
    check_limits,
    check_streaming,
    output_tokens,
    pick_model,
    sampling_params,
    stop_strings,
)
from deploykit.server.prompting import chat_prompt
from deploykit.server.schema import ChatCompletionRequest
from deploykit.server.service import Service


async def chat_completions(call: Call, service: Service) -> None:
    """Raises ApiError."""
    request = parse(await call.body(service.spec.limits.body_timeout))
    defaults, limits = service.spec.defaults, service.spec.limits
    model = pick_model(request.model, service.spec.model_names)
    stops = stop_strings(request, defaults.stop)
    check_limits(request, stops, 1, limits)
    service.drain.check()
    ready = service.client.check()
    prompt = await chat_prompt(request, service, ready)
    asked, name = request.max_tokens, "max_tokens"
    if request.max_completion_tokens is not None:
        asked, name = request.max_completion_tokens, "max_completion_tokens"
    max_tokens = output_tokens(
        asked, name=name, default=defaults.max_tokens, longest_prompt=len(prompt), ready=ready, limits=limits
    )
    sampling = sampling_params(
        request,
        defaults=defaults,
        max_tokens=max_tokens,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=request.prompt_logprobs,
        tokenizer=service.tokenizer,
        ready=ready,
        ends=service.template_stops.ids,
    )
    job = Job(
        request_id=f"chatcmpl-{call.request_id}",
        prompts=[prompt],
        sampling=sampling,
        n=request.n or 1,
        stops=stops if request.ignore_eos else (*stops, *service.template_stops.texts),
        skip_special=request.skip_special_tokens is not False,
        salt=request.cache_salt or "",
        deadline_s=limits.request_timeout,
        arrived=call.arrived,
    )
    generation = Generation(job, service.client, service.tokenizer, service.metrics)
    form = ChatFormat(request, model, generation, service)
    await answer(call, service, generation, form, stream=bool(request.stream))


def parse(raw: bytes) -> ChatCompletionRequest:
    """Raises ApiError (400) with the first fault."""
    try:
        request = ChatCompletionRequest.model_validate_json(raw)
    except ValidationError as error:
        raise from_validation(error) from None
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request("`top_logprobs` needs `logprobs: true`.", param="top_logprobs")
    check_streaming(request)
    return request


class ChatFormat:
    """OpenAI's chat completion: an object, or chunks of one."""

    def __init__(
        self, request: ChatCompletionRequest, model: str, generation: Generation, service: Service
    ) -> None:
        self._generation = generation
        self._tokenizer = service.tokenizer
        self._wants_logprobs = bool(request.logprobs)
        self._wants_prompt_logprobs = request.prompt_logprobs is not None
        options = request.stream_options
        self._usage_in_stream = options is not None and options.include_usage
        self._n = generation.job.n
        self._head = {"id": generation.job.request_id, "created": int(time.time()), "model": model}
        self._texts: list[list[str]] = [[] for _ in range(self._n)]
        self._entries: list[list[LogprobEntry]] = [[] for _ in range(self._n)]
        self._finish: list[str | None] = [None] * self._n
        self._keep = not request.stream

    def take(self, delta: Delta) -> None:
        if self._keep:
            self._texts[delta.choice].append(delta.text)
            self._entries[delta.choice] += delta.logprobs
            self._finish[delta.choice] = delta.finish

    def first_events(self) -> list[dict[str, Any]]:
        return [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._n)]

    def events(self, delta: Delta) -> list[dict[str, Any]]:
        events = []
        if delta.text or delta.logprobs:
            events.append(self._chunk(delta.choice, {"content": delta.text}, delta.logprobs))
        if delta.finish is not None:
            events.append(self._chunk(delta.choice, {}, finish=delta.finish))
        return events

    def last_events(self) -> list[dict[str, Any]]:
        if not self._usage_in_stream:
            return []
        return [self._chunks([], usage=self._generation.usage.body())]

    def body(self) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(self._texts[index]), "refusal": None},
                "logprobs": self._logprobs(self._entries[index]),
                "finish_reason": self._finish[index],
            }
            for index in range(self._n)
        ]
        body = {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self._generation.usage.body(),
        }
        if self._wants_prompt_logprobs:
            body["prompt_logprobs"] = prompt_logprobs(self._generation.prompt_logprobs[0], self._tokenizer)
        return body

    def _logprobs(self, entries: list[LogprobEntry] | tuple[LogprobEntry, ...]) -> dict[str, Any] | None:
        if not self._wants_logprobs:
            return None
        return {"content": chat_content(entries, self._tokenizer), "refusal": None}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        entries: tuple[LogprobEntry, ...] = (),
        finish: str | None = None,
    ) -> dict[str, Any]:
        logprobs = self._logprobs(entries) if entries else None
        return self._chunks([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])

    def _chunks(
        self, choices: list[dict[str, Any]], usage: dict[str, object] | None = None
    ) -> dict[str, Any]:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._usage_in_stream:
            chunk["usage"] = usage
        return chunk
