"""From a validated request to sampling parameters: defaults, the operator's limits, the model's bounds."""

from __future__ import annotations

from deploykit.engine.protocol import Ready
from deploykit.engine.types import SamplingParams
from deploykit.prompt.tokenizer import Tokenizer
from deploykit.server.errors import ApiError, bad_request
from deploykit.server.schema import SamplingFields
from deploykit.server.spec import ChatDefaults, Limits


def pick_model(name: str | None, names: tuple[str, ...]) -> str:
    """The model that a request names; raises ApiError (404)."""
    if name is None:
        return names[0]
    if name in names:
        return name
    shown = name if len(name) <= 80 else name[:77] + "…"
    raise ApiError(
        404,
        f"The model `{shown}` is not served here; /v1/models lists what is.",
        param="model",
        code="model_not_found",
    )


def check_limits(request: SamplingFields, stops: tuple[str, ...], num_prompts: int, limits: Limits) -> None:
    """The operator's limits. Raises ApiError (400)."""
    _at_most("n", request.n or 1, limits.max_n)
    _at_most("stop", len(stops), limits.max_stop, "entries")
    _at_most("prompt", num_prompts, limits.max_prompts, "entries")


def check_streaming(request: SamplingFields) -> None:
    """Fields that go with streaming, or without it alone. Raises ApiError (400)."""
    if request.stream_options is not None and not request.stream:
        raise bad_request("`stream_options` needs `stream: true`.", param="stream_options")
    if request.stream and request.prompt_logprobs is not None:
        raise bad_request("`prompt_logprobs` can't be streamed.", param="prompt_logprobs")


def stop_strings(request: SamplingFields, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    if request.stop is None:
        return default
    return (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)


def output_tokens(
    asked: int | None, *, name: str, default: int | None, longest_prompt: int, ready: Ready, limits: Limits
) -> int:
    """How many tokens an answer may have: what was asked for, within the session and the operator's limit.

    Raises ApiError (400) for a prompt that leaves no room, and for more than the limit.
    """
    room = session_room(ready) - longest_prompt
    if room < (0 if asked == 0 else 1):
        raise too_long(longest_prompt, session_room(ready))
    if asked is not None and limits.max_tokens is not None:
        _at_most(name, asked, limits.max_tokens)
    wanted = asked if asked is not None else (default if default is not None else room)
    if limits.max_tokens is not None:
        wanted = min(wanted, limits.max_tokens)
    return min(wanted, room)


def session_room(ready: Ready) -> int:
    """Tokens that one request may hold: the session, or the whole KV memory where that is smaller."""
    return min(ready.session_len, ready.num_blocks * ready.block_len)


def too_long(tokens: int, session_len: int) -> ApiError:
    return bad_request(
        f"The prompt has {tokens} tokens; a session holds {session_len}, prompt and output together.",
        code="context_length_exceeded",
    )


def sampling_params(
    request: SamplingFields,
    *,
    defaults: ChatDefaults,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    tokenizer: Tokenizer,
    ready: Ready,
    ends: tuple[int, ...] = (),
) -> SamplingParams:
    """`ends` are the template's own stop tokens, which `ignore_eos` ignores too.

    Raises ApiError (400) for what only the model can tell to be wrong.
    """
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens > 0:
        raise bad_request(
            f"`min_tokens` ({min_tokens}) is over max_tokens ({max_tokens}).", param="min_tokens"
        )
    stop_ids = tuple(request.stop_token_ids or ())
    _in_vocabulary("stop_token_ids", stop_ids, ready.vocab_size)
    bias = request.logit_bias or {}
    _in_vocabulary("logit_bias", tuple(bias), ready.vocab_size)
    return SamplingParams(
        temperature=_first(request.temperature, defaults.temperature, 1.0),
        top_p=_first(request.top_p, defaults.top_p, 1.0),
        top_k=max(0, int(_first(request.top_k, defaults.top_k, 0))),
        min_p=_first(request.min_p, defaults.min_p, 0.0),
        repetition_penalty=_first(request.repetition_penalty, defaults.repetition_penalty, 1.0),
        frequency_penalty=_first(request.frequency_penalty, None, 0.0),
        presence_penalty=_first(request.presence_penalty, None, 0.0),
        seed=None if request.seed is None else request.seed % (1 << 64),
        logit_bias=bias,
        max_tokens=max_tokens,
        min_tokens=min(min_tokens, max_tokens),
        ignore_eos=bool(request.ignore_eos),
        stop_token_ids=stop_ids if request.ignore_eos else tuple(dict.fromkeys((*stop_ids, *ends))),
        bad_words=bad_word_ids(tuple(request.bad_words or ()), tokenizer),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def bad_word_ids(words: tuple[str, ...], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Each word's tokens as it stands by itself and after a space."""
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        for text in (word, " " + word.lstrip(" ")):
            if ids := tuple(tokenizer.encode_continuation(text)):
                found[ids] = None
    return tuple(found)


def _first(asked: float | None, default: float | None, otherwise: float) -> float:
    if asked is not None:
        return asked
    return default if default is not None else otherwise


def _at_most(name: str, value: int, limit: int, unit: str = "") -> None:
    if value > limit:
        has = f"has {value} {unit}" if unit else f"is {value}"
        raise bad_request(
            f"`{name}` {has}; this server allows at most {limit}.", param=name, code="over_limit"
        )


def _in_vocabulary(name: str, ids: tuple[int, ...], vocab_size: int) -> None:
    for token_id in ids:
        if token_id >= vocab_size:
            raise bad_request(
                f"`{name}`: token id {token_id} is outside the vocabulary of {vocab_size}.", param=name
            )
