"""From a request to prompt tokens, with CPU work off the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from deploykit.engine.protocol import Ready
from deploykit.prompt.errors import PromptError
from deploykit.prompt.shield import Piece
from deploykit.prompt.templates.infill import FILL, split_gap
from deploykit.prompt.templates.open import Template
from deploykit.server.errors import ApiError, bad_request, from_prompt, unsupported
from deploykit.server.params import session_room
from deploykit.server.schema import ChatCompletionRequest, CompletionRequest
from deploykit.server.service import Service

INLINE_CHARACTERS = 4096  # shorter plain prompts are tokenized in less time than a thread switch is worth


async def chat_prompt(request: ChatCompletionRequest, service: Service, ready: Ready) -> list[int]:
    """Render and tokenize a conversation. Raises ApiError (400)."""
    room = session_room(ready)
    return await service.off_loop(
        lambda: service.tokenizer.encode_pieces(chat_pieces(request, service, room))
    )


def chat_pieces(request: ChatCompletionRequest, service: Service, room: int) -> list[Piece]:
    """A conversation rendered for a session of `room` tokens; CPU work of the calling thread. Raises ApiError (400)."""
    template = service.template
    if template is None:
        why = service.spec.no_chat or "there is no chat template"
        raise bad_request(
            f"This deployment doesn't serve chat ({why}); use /v1/completions.",
            param="messages",
            code="no_chat_template",
        )
    messages = _messages(request, template, service.spec.system)
    variables = _variables(request, template.variables)
    try:
        service.tokenizer.check_length((str(message["content"]) for message in messages), room)
        pieces = template.render_pieces(messages, **variables)
    except PromptError as error:
        raise from_prompt(error) from None
    if not pieces:
        raise bad_request("The chat template made an empty prompt of these messages.", param="messages")
    return pieces


def _messages(request: ChatCompletionRequest, template: Template, system: str | None) -> list[dict[str, Any]]:
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
    """A completion's prompt. Its first `silent` tokens (a BOS put there) are no part of the given text.

    `infill`: it is what stands around a gap, and the answer is what belongs there.
    """

    ids: list[int]
    silent: int = 0
    infill: bool = False


async def completion_prompts(
    prompts: list[str] | list[list[int]], service: Service, ready: Ready, suffix: str | None = None
) -> list[PlainPrompt]:
    """Token ids of each prompt, with BOS before a text where the model wants it. Raises ApiError (400)."""
    size = sum(len(prompt) + len(suffix or "") for prompt in prompts if isinstance(prompt, str))
    if size <= INLINE_CHARACTERS:
        return plain_prompts(prompts, service, ready, suffix)
    return await service.off_loop(lambda: plain_prompts(prompts, service, ready, suffix))


def plain_prompts(
    prompts: Sequence[str | list[int]], service: Service, ready: Ready, suffix: str | None = None
) -> list[PlainPrompt]:
    """The same as CPU work of the calling thread. With `suffix`, each prompt is what stands before a gap."""
    if suffix and service.infill is None:
        raise unsupported("suffix", "this deployment fills no gaps (its `chat.capability` isn't `infilling`)")
    plain: list[PlainPrompt] = []
    for position, prompt in enumerate(prompts):
        param = "prompt" if len(prompts) == 1 else f"prompt[{position}]"
        if isinstance(prompt, str):
            try:
                service.tokenizer.check_length((prompt, suffix or ""), session_room(ready))
            except PromptError as error:
                raise _for_prompt(from_prompt(error)) from None
            plain.append(_text_prompt(prompt, suffix, service, param))
        elif suffix:
            raise bad_request("`suffix` goes with a prompt that is text.", param="suffix")
        else:
            given: list[int] = prompt
            plain.append(PlainPrompt(list(given)))
        ids = plain[-1].ids
        if not ids:
            raise bad_request("The prompt is empty.", param=param, code="prompt_empty")
        if max(ids) >= ready.vocab_size:
            raise bad_request(
                f"`{param}`: token id {max(ids)} is outside the vocabulary of {ready.vocab_size}.",
                param=param,
            )
    return plain


def _text_prompt(prompt: str, suffix: str | None, service: Service, param: str) -> PlainPrompt:
    """A text as it stands, or, where gaps are filled, as the two sides of one."""
    gap = (prompt, suffix) if suffix else None
    if service.infill is not None and FILL in prompt:
        if suffix:
            raise bad_request(f"`{param}` has a {FILL}; leave out `suffix`.", param="suffix")
        try:
            gap = split_gap(prompt)
        except ValueError as error:
            raise bad_request(f"`{param}`: {error}.", param=param) from None
    if gap is None or service.infill is None:
        return _with_bos(service.tokenizer.encode(prompt), service.bos_id)
    ids = service.infill.encode(*gap, service.tokenizer)
    return _with_bos(ids, service.bos_id)._replace(infill=True)


def _with_bos(ids: list[int], bos: int | None) -> PlainPrompt:
    if bos is None or ids[:1] == [bos]:  # none wanted, or written in the text
        return PlainPrompt(ids)
    return PlainPrompt([bos, *ids], silent=1)


def _for_prompt(error: ApiError) -> ApiError:
    error.param = "prompt"
    return error
