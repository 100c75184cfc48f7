"""From a request to prompt tokens, with CPU work off the event loop."""

from __future__ import annotations

from typing import Any, NamedTuple

from deploykit.engine.protocol import Ready
from deploykit.prompt.errors import PromptError
from deploykit.prompt.template import ChatTemplate
from deploykit.server.errors import ApiError, bad_request, from_prompt
from deploykit.server.params import session_room
from deploykit.server.schema import ChatCompletionRequest, CompletionRequest
from deploykit.server.service import Service

INLINE_CHARACTERS = 4096  # shorter plain prompts are tokenized in less time than a thread switch is worth


async def chat_prompt(request: ChatCompletionRequest, service: Service, ready: Ready) -> list[int]:
    """Render and tokenize a conversation. Raises ApiError (400)."""
    template, tokenizer = service.template, service.tokenizer
    if template is None:
        raise bad_request(
            "This model has no chat template; use /v1/completions.", param="messages", code="no_chat_template"
        )
    messages = _messages(request, template, service.spec.system)
    variables = _variables(request, template.variables)

    def work() -> list[int]:
        tokenizer.check_length((str(message["content"]) for message in messages), session_room(ready))
        return tokenizer.encode_pieces(template.render_pieces(messages, **variables))

    try:
        ids = await service.off_loop(work)
    except PromptError as error:
        raise from_prompt(error) from None
    if not ids:
        raise bad_request("The chat template made an empty prompt of these messages.", param="messages")
    return ids


def _messages(
    request: ChatCompletionRequest, template: ChatTemplate, system: str | None
) -> list[dict[str, Any]]:
    knows_developer = "developer" in template.source
    messages: list[dict[str, Any]] = []
    for message in request.messages:
        role = message.role
        if role == "developer" and not knows_developer:
            role = "system"  # the newer name of the same thing
        entry = {"role": role, "content": message.text}
        if message.name is not None:
            entry["name"] = message.name
        messages.append(entry)
    has_system = any(message["role"] in ("system", "developer") for message in messages)
    if system is not None and not has_system:
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _variables(request: ChatCompletionRequest, known: frozenset[str]) -> dict[str, Any]:
    kwargs = request.chat_template_kwargs
    given = {} if kwargs is None else kwargs.model_dump(exclude_none=True)
    for name in given:
        if name not in known:
            param = f"chat_template_kwargs.{name}"
            raise bad_request(f"`{param}`: this model's chat template doesn't read it.", param=param)
    return given


def prompt_list(request: CompletionRequest) -> list[str] | list[list[int]]:
    """A completion's prompts, however they were written."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]
    return prompt


class PlainPrompt(NamedTuple):
    """A completion's prompt. Its first `silent` tokens (a BOS put there) are no part of the given text."""

    ids: list[int]
    silent: int = 0


async def completion_prompts(
    prompts: list[str] | list[list[int]], service: Service, ready: Ready
) -> list[PlainPrompt]:
    """Token ids of each prompt, with BOS before a text where the model wants it. Raises ApiError (400)."""
    room = session_room(ready)
    if isinstance(prompts[0], str):
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]

        def work() -> list[PlainPrompt]:
            for text in texts:
                service.tokenizer.check_length((text,), room)
            return [_with_bos(service.tokenizer.encode(text), service.bos_id) for text in texts]

        try:
            short = sum(len(text) for text in texts) <= INLINE_CHARACTERS
            plain = work() if short else await service.off_loop(work)
        except PromptError as error:
            raise _for_prompt(from_prompt(error)) from None
    else:
        plain = [PlainPrompt(list(prompt)) for prompt in prompts if not isinstance(prompt, str)]
    for position, prompt in enumerate(plain):
        param = "prompt" if len(plain) == 1 else f"prompt[{position}]"
        if not prompt.ids:
            raise bad_request("The prompt is empty.", param=param, code="prompt_empty")
        if max(prompt.ids) >= ready.vocab_size:
            raise bad_request(
                f"`{param}`: token id {max(prompt.ids)} is outside the vocabulary of {ready.vocab_size}.",
                param=param,
            )
    return plain


def _with_bos(ids: list[int], bos: int | None) -> PlainPrompt:
    if bos is None or ids[:1] == [bos]:  # none wanted, or written in the text
        return PlainPrompt(ids)
    return PlainPrompt([bos, *ids], silent=1)


def _for_prompt(error: ApiError) -> ApiError:
    error.param = "prompt"
    return error
