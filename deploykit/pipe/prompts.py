"""The prompts that a pipe takes, and what each asks of the engine. CPU work of the calling thread."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from deploykit.engine.protocol import Ready
from deploykit.pipe.errors import GenerationError
from deploykit.pipe.generation_config import GenerationConfig, filled, our_name
from deploykit.prompt.shield import Piece
from deploykit.prompt.templates.stops import NO_STOPS, TemplateStops
from deploykit.server.errors import ApiError, from_validation
from deploykit.server.generation import Job
from deploykit.server.params import output_tokens, sampling_params, session_room, stop_strings
from deploykit.server.prompting import chat_pieces, plain_prompts
from deploykit.server.schema import ChatCompletionRequest, CompletionRequest, SamplingFields
from deploykit.server.service import Service
from deploykit.server.spec import Limits

Message = Mapping[str, Any]  # OpenAI's: role and content
Prompt = str | Sequence[Message]  # a text, or a conversation

_NO_LIMITS = Limits()  # those of the HTTP server don't hold here; its default for max_tokens is none


def as_batch(prompts: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """The prompts as a list, and whether it was a single one. Raises TypeError for what is no prompt."""
    if isinstance(prompts, str) or _is_conversation(prompts):
        return [prompts], True  # type: ignore[list-item]
    if not isinstance(prompts, list | tuple):
        raise TypeError(f"a prompt is a text or a list of messages, or a list of those; not {_kind(prompts)}")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str) and not _is_conversation(prompt):
            raise TypeError(f"prompts[{index}] is neither a text nor a list of messages: {_kind(prompt)}")
    return list(prompts), False


def _is_conversation(prompt: object) -> bool:
    return (
        isinstance(prompt, list | tuple)
        and len(prompt) > 0
        and all(isinstance(message, Mapping) for message in prompt)
    )


def _kind(value: object) -> str:
    if isinstance(value, list | tuple) and value:
        return f"a list of {type(value[0]).__name__}"
    return "an empty list" if isinstance(value, list | tuple) else f"{type(value).__name__}"


def as_messages(prompt: Prompt) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


@dataclasses.dataclass(frozen=True)
class Rendered:
    """What a prompt asks for, and, where a chat template made it, its text."""

    request: SamplingFields
    config: GenerationConfig
    pieces: tuple[Piece, ...] = ()
    ends: TemplateStops = NO_STOPS


class Prompter:
    """Makes jobs for the engine from prompts; thread-safe."""

    def __init__(self, service: Service, ready: Ready) -> None:
        self.service = service
        self.ready = ready
        self.room = session_room(ready)
        self._defaults = filled(service.spec.defaults)

    def job(self, prompt: Prompt, config: GenerationConfig, *, do_preprocess: bool = True) -> Job:
        """`do_preprocess=False`: the prompt is a text that goes to the model as it is.

        Raises GenerationError where the prompt or the config can't be served.
        """
        if isinstance(prompt, str) and (not do_preprocess or self._takes_plain_text):
            return self._plain(prompt, config)
        if not do_preprocess:
            raise GenerationError(
                "invalid_value",
                "without a chat template (do_preprocess=False) a prompt is a text",
                fix="join the messages yourself, or leave do_preprocess out",
            )
        rendered = self.render(as_messages(prompt), config)
        return self.job_of(rendered, self.service.tokenizer.encode_pieces(rendered.pieces))

    @property
    def _takes_plain_text(self) -> bool:
        return self.service.spec.capability in ("completion", "infilling")

    def _plain(self, text: str, config: GenerationConfig) -> Job:
        try:
            request = CompletionRequest.model_validate({"prompt": text, **config.http_fields()})
            (plain,) = plain_prompts([text], self.service, self.ready)
        except ValidationError as error:
            raise failure(from_validation(error)) from None
        except ApiError as error:
            raise failure(error) from None
        ends = TemplateStops(ids=self.service.infill.ends if plain.infill and self.service.infill else ())
        return self.job_of(Rendered(request, config, ends=ends), plain.ids)

    def render(self, messages: Sequence[Message], config: GenerationConfig) -> Rendered:
        """A conversation's text. Raises GenerationError."""
        if self.service.template is None:
            raise GenerationError(
                "no_chat_template",
                f"this model is not served for chat: {self.service.spec.no_chat or 'it has no chat template'}",
                fix="pass chat_template_config=…, or texts that need none with do_preprocess=False",
            )
        fields = {"messages": list(messages), **config.http_fields()}
        try:
            request = ChatCompletionRequest.model_validate(fields)
            pieces = chat_pieces(request, self.service, self.room)
        except ValidationError as error:
            raise failure(from_validation(error)) from None
        except ApiError as error:
            raise failure(error) from None
        return Rendered(request, config, tuple(pieces), self.service.template_stops)

    def job_of(self, rendered: Rendered, ids: Sequence[int]) -> Job:
        """The job for a prompt's token ids. Raises GenerationError."""
        request, config = rendered.request, rendered.config
        try:
            max_tokens = output_tokens(
                request.max_tokens,
                name="max_tokens",
                default=self._defaults.max_tokens,
                longest_prompt=len(ids),
                ready=self.ready,
                limits=_NO_LIMITS,
            )
            if config.min_new_tokens is not None and config.max_new_tokens is None:
                max_tokens = min(max(max_tokens, config.min_new_tokens), self.room - len(ids))
            sampling = sampling_params(
                request,
                defaults=self._defaults,
                max_tokens=max_tokens,
                logprobs=config.logprobs,
                prompt_logprobs=None,
                tokenizer=self.service.tokenizer,
                ready=self.ready,
                ends=rendered.ends.ids,
            )
        except ApiError as error:
            raise failure(error) from None
        if sampling.top_k == 1:  # greedy, said so: no draw among equals, and the runners' fast path
            sampling = msgspec.structs.replace(sampling, temperature=0.0)
        stops = stop_strings(request, self._defaults.stop)
        return Job(
            request_id=uuid.uuid4().hex,
            prompts=[ids],
            sampling=sampling,
            n=request.n or 1,
            stops=stops if request.ignore_eos else (*stops, *rendered.ends.texts),
            skip_special=request.skip_special_tokens is not False,
        )


def failure(error: ApiError) -> GenerationError:
    """An answer of the server as this API's error, with this API's names."""
    message = error.message
    if error.param is not None and (ours := our_name(error.param)) != error.param:
        message = message.replace(f"`{error.param}`", f"`{ours}`").replace("max_tokens", "max_new_tokens")
        return GenerationError(error.code or "invalid_value", message, where=ours)
    return GenerationError(error.code or "invalid_value", message, where=error.param)
