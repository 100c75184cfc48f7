"""POST /v1/completions."""

from __future__ import annotations

import time
from typing import Any

from pydantic import ValidationError

from deploykit.server.answer import answer
from deploykit.server.call import Call
from deploykit.server.choice import Delta
from deploykit.server.errors import bad_request, from_validation
from deploykit.server.generation import Generation, Job
from deploykit.server.logprobs import CompletionLogprobs, prompt_logprobs
from deploykit.server.params import (
    check_limits,
    check_streaming,
    output_tokens,
    pick_model,
    sampling_params,
    stop_strings,
)
from deploykit.server.prompting import completion_prompts, prompt_list
from deploykit.server.schema import CompletionRequest
from deploykit.server.service import Service

DEFAULT_MAX_TOKENS = 16  # OpenAI's


async def completions(call: Call, service: Service) -> None:
    """Raises ApiError."""
    request = parse(await call.body(service.spec.limits.body_timeout))
    limits = service.spec.limits
    model = pick_model(request.model, service.spec.model_names)
    given = prompt_list(request)
    stops = stop_strings(request)
    check_limits(request, stops, len(given), limits)
    service.drain.check()
    ready = service.client.check(len(given))
    prompts = await completion_prompts(given, service, ready, request.suffix)
    infill = service.infill if any(prompt.infill for prompt in prompts) else None
    if infill is not None and request.echo:
        raise bad_request("`echo` doesn't go with a gap to fill in.", param="echo")
    max_tokens = output_tokens(
        request.max_tokens,
        name="max_tokens",
        default=DEFAULT_MAX_TOKENS,
        longest_prompt=max(len(prompt.ids) for prompt in prompts),
        ready=ready,
        limits=limits,
    )
    of_prompt = request.prompt_logprobs
    if of_prompt is None and request.echo:
        of_prompt = request.logprobs
    sampling = sampling_params(
        request,
        defaults=service.spec.defaults,
        max_tokens=max_tokens,
        logprobs=request.logprobs,
        prompt_logprobs=of_prompt,
        tokenizer=service.tokenizer,
        ready=ready,
        ends=() if infill is None else infill.ends,
    )
    job = Job(
        request_id=f"cmpl-{call.request_id}",
        prompts=[prompt.ids for prompt in prompts],
        sampling=sampling,
        n=request.n or 1,
        stops=stops,
        skip_special=request.skip_special_tokens is not False,
        salt=request.cache_salt or "",
        deadline_s=limits.request_timeout,
        arrived=call.arrived,
    )
    generation = Generation(job, service.client, service.tokenizer, service.metrics)
    form = CompletionFormat(request, given, [prompt.silent for prompt in prompts], model, generation, service)
    await answer(call, service, generation, form, stream=bool(request.stream))


def parse(raw: bytes) -> CompletionRequest:
    """Raises ApiError (400) with the first fault."""
    try:
        request = CompletionRequest.model_validate_json(raw)
    except ValidationError as error:
        raise from_validation(error) from None
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise bad_request("`best_of` must equal `n`: answers aren't ranked here.", param="best_of")
    if request.max_tokens == 0 and not request.echo:
        raise bad_request("`max_tokens` of 0 needs `echo: true`.", param="max_tokens")
    check_streaming(request)
    return request


class CompletionFormat:
    """OpenAI's text completion: an object, or chunks of one. Choice `p * n + i` is the i-th answer to prompt p."""

    def __init__(
        self,
        request: CompletionRequest,
        given: list[str] | list[list[int]],
        silent: list[int],
        model: str,
        generation: Generation,
        service: Service,
    ) -> None:
        self._generation = generation
        self._silent = silent
        self._tokenizer = service.tokenizer
        self._request = request
        self._n = generation.job.n
        self._stream = bool(request.stream)
        options = request.stream_options
        self._usage_in_stream = options is not None and options.include_usage
        self._head = {
            "id": generation.job.request_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._echoes = [self._echo_text(prompt) for prompt in given] if request.echo else [""] * len(given)
        self._choices = len(given) * self._n
        self._texts: list[list[str]] = [[] for _ in range(self._choices)]
        self._logprobs = [CompletionLogprobs() for _ in range(self._choices)]
        self._finish: list[str | None] = [None] * self._choices
        self._begun = [False] * self._choices

    def take(self, delta: Delta) -> None:
        if not self._stream:
            self._texts[delta.choice].append(self._text(delta))
            self._add_logprobs(self._logprobs[delta.choice], delta)
            self._begin(delta)
            self._finish[delta.choice] = delta.finish

    def first_events(self) -> list[dict[str, Any]]:
        return []

    def events(self, delta: Delta) -> list[dict[str, Any]]:
        logprobs = CompletionLogprobs()
        text = self._text(delta)
        self._add_logprobs(logprobs, delta)
        self._begin(delta)
        if not text and not logprobs.tokens and delta.finish is None:
            return []
        return [self._chunk([self._choice(delta.choice, text, logprobs, delta.finish)])]

    def last_events(self) -> list[dict[str, Any]]:
        if not self._usage_in_stream:
            return []
        return [self._chunk([], usage=self._generation.usage.body())]

    def body(self) -> dict[str, Any]:
        choices = []
        for index in range(self._choices):
            choice = self._choice(
                index, "".join(self._texts[index]), self._logprobs[index], self._finish[index]
            )
            if self._request.prompt_logprobs is not None:
                values = self._generation.prompt_logprobs[index // self._n]
                choice["prompt_logprobs"] = prompt_logprobs(values, self._tokenizer)
            choices.append(choice)
        return {**self._head, "choices": choices, "usage": self._generation.usage.body()}

    # ------------------------------------------------------------ the prompt, echoed

    def _echo_text(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)

    def _starts(self, delta: Delta) -> bool:
        """Whether this delta is the choice's first; those before it bring only the prompt's log probabilities."""
        return not self._begun[delta.choice] and (delta.tokens > 0 or delta.finish is not None)

    def _begin(self, delta: Delta) -> None:
        self._begun[delta.choice] |= self._starts(delta)

    def _text(self, delta: Delta) -> str:
        return self._echoes[delta.choice // self._n] + delta.text if self._starts(delta) else delta.text

    def _add_logprobs(self, logprobs: CompletionLogprobs, delta: Delta) -> None:
        if self._request.logprobs is None:
            return
        prompt = delta.choice // self._n
        if self._request.echo and self._starts(delta):
            logprobs.add_prompt(
                self._generation.job.prompts[prompt],
                self._generation.prompt_logprobs[prompt],
                self._silent[prompt],
                self._tokenizer,
            )
        logprobs.add_answer(delta.logprobs, len(self._echoes[prompt]), self._tokenizer)

    # ------------------------------------------------------------ objects

    def _choice(
        self, index: int, text: str, logprobs: CompletionLogprobs, finish: str | None
    ) -> dict[str, Any]:
        wanted = self._request.logprobs is not None
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs.body() if wanted else None,
            "finish_reason": finish,
        }

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, object] | None = None) -> dict[str, Any]:
        chunk = {**self._head, "choices": choices}
        if self._usage_in_stream:
            chunk["usage"] = usage
        return chunk
