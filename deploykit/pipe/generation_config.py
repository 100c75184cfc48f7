"""GenerationConfig: how a pipe chooses tokens, with LMDeploy's names and defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from deploykit.pipe.errors import InvalidField, known_fields
from deploykit.server.errors import field_path
from deploykit.server.schema import SamplingFields
from deploykit.server.spec import ChatDefaults

MAX_LOGPROBS = 20

# What holds where neither the call, the pipe, the recipe nor the checkpoint says anything. The other fields' are off.
DEFAULTS = ChatDefaults(
    temperature=0.8, top_p=1.0, top_k=1, min_p=0.0, repetition_penalty=1.0, max_tokens=512
)

# The same fields over HTTP.
_HTTP_NAMES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "random_seed": "seed",
    "stop_words": "stop",
}
_OUR_NAMES = {theirs: ours for ours, theirs in _HTTP_NAMES.items()}

_FOREIGN = {
    **{theirs: f"here it is `{ours}`" for theirs, ours in _OUR_NAMES.items()},
    "max_length": "here it is `max_new_tokens`, of the answer alone",
    "min_length": "here it is `min_new_tokens`, of the answer alone",
    "do_sample": "`top_k=1` (the default) is greedy; sample with `top_k=0` or another number",
    "bad_token_ids": "write `logit_bias={id: -100}`",
    "logits_processors": "the engine is another process: use `logit_bias` or `bad_words`",
    "best_of": "here it is `n`",
    "top_logprobs": "here it is `logprobs`, the number of alternatives",
}


@known_fields(_FOREIGN)
@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How tokens are chosen. A field that is left out (None) is looked for further on, each by itself:

    the call's config, the pipe's, the recipe's `chat.defaults`, the checkpoint's generation_config.json, and last
    the defaults: max_new_tokens 512, temperature 0.8, top_p 1, top_k 1 (greedy), repetition_penalty 1, all else off.

    Raises InvalidField (a ValueError) for a value out of bounds and TypeError for a field that doesn't exist.
    """

    n: int | None = None
    """Answers to each prompt; 1 by default."""
    max_new_tokens: int | None = None
    """Most tokens of an answer; what the session leaves is the limit above it."""
    min_new_tokens: int | None = None
    """No end, and no stop word, before that many tokens."""
    temperature: float | None = None
    """0 to 2; 0 is greedy."""
    top_p: float | None = None
    """Over 0, to 1: sample from the likeliest tokens of this mass."""
    top_k: int | None = None
    """Sample from that many of the likeliest tokens; 1 is greedy, 0 is all."""
    min_p: float | None = None
    """0 to 1: drop tokens below this share of the likeliest."""
    repetition_penalty: float | None = None
    """Over 0, to 2; over prompt and answer; 1 is off."""
    presence_penalty: float | None = None
    """-2 to 2; over the answer."""
    frequency_penalty: float | None = None
    """-2 to 2; over the answer."""
    random_seed: int | None = None
    """The same prompt with the same seed has the same answer; drawn where there is none."""
    stop_words: Sequence[str] | None = None
    """Texts that an answer ends before."""
    bad_words: Sequence[str] | None = None
    """Texts that are never written, by themselves or after a space."""
    stop_token_ids: Sequence[int] | None = None
    """Tokens that end an answer as the model's own end does."""
    logit_bias: Mapping[int, float] | None = None
    """Token id -> what is added to its logit, -100 to 100."""
    ignore_eos: bool | None = None
    """Go on to max_new_tokens."""
    skip_special_tokens: bool | None = None
    """Control tokens give no text; True by default."""
    logprobs: int | None = None
    """Log probabilities of the answer's tokens, each with that many alternatives, 0 to 20."""

    def __post_init__(self) -> None:
        fields = self.fields()
        logprobs = fields.pop("logprobs", None)
        if logprobs is not None and (type(logprobs) is not int or not 0 <= logprobs <= MAX_LOGPROBS):
            raise InvalidField("logprobs", f"`logprobs`: a whole number from 0 to {MAX_LOGPROBS}, or None.")
        try:
            SamplingFields.model_validate({_HTTP_NAMES.get(name, name): fields[name] for name in fields})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            head, *rest = first["loc"]
            name = our_name(str(head))
            path = field_path((name, *rest))
            raise InvalidField(name, f"`{path}`: {first['msg']}.") from None

    def fields(self) -> dict[str, Any]:
        """What was given, by our names, in JSON's types."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in given.items() if value is not None}

    def http_fields(self) -> dict[str, Any]:
        """The same as a request's fields, without `logprobs`, which has another shape there."""
        given = self.fields()
        given.pop("logprobs", None)
        return {_HTTP_NAMES.get(name, name): value for name, value in given.items()}

    def over(self, below: GenerationConfig | None) -> GenerationConfig:
        """This config with the fields that it leaves out taken from `below`."""
        return self if below is None else GenerationConfig(**{**below.fields(), **self.fields()})

    def __repr__(self) -> str:
        return f"GenerationConfig({', '.join(f'{name}={value!r}' for name, value in self.fields().items())})"


def our_name(http_name: str) -> str:
    """The field of GenerationConfig that a request's field stands for."""
    return _OUR_NAMES.get(http_name, http_name)


def filled(defaults: ChatDefaults) -> ChatDefaults:
    """The recipe's and the checkpoint's defaults, with this API's where they say nothing."""
    return ChatDefaults(
        **{
            name: getattr(DEFAULTS, name) if getattr(defaults, name) is None else getattr(defaults, name)
            for name in ChatDefaults.__struct_fields__
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return value
