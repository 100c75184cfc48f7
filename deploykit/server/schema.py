"""What the two completion routes accept: strict models, every number, list and string with a bound.

They validate the raw bytes (`model_validate_json`), so that lone surrogates, deep nesting and huge numbers are clean
errors. Fields of OpenAI's API that would change the result and aren't honoured are refused by name; those that
change nothing are ignored (`fields.py`). Bounds that an operator sets (`Limits`) are checked in `params.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from deploykit.server.fields import check_extra

MAX_TEXT = 16 << 20  # characters
MAX_IDS = 1 << 20  # token ids of one prompt
MAX_TOKENS = 1 << 24
MAX_CHOICES = 128
MAX_PROMPTS = 2048
MAX_STOP = 256

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]


def _shape(value: Any) -> str:
    """Which variant of a union a JSON value is meant as, so that an error names one and not all of them."""
    if not isinstance(value, list):
        return "<text>"
    first = value[0] if value else ""
    if isinstance(first, bool | int | float):
        return "<ids>"
    return "<lists>" if isinstance(first, list) else "<list>"


TextOrList = Annotated[
    Annotated[StopString, Tag("<text>")]
    | Annotated[list[StopString], Field(max_length=MAX_STOP, fail_fast=True), Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list) else "<text>"),
]


class Strict(BaseModel):
    """No coercion, no NaN or infinity; unknown fields go through `check_extra`."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="allow", allow_inf_nan=False, hide_input_in_errors=True
    )


class StreamOptions(Strict):
    include_usage: bool = Field(default=False, description="End with a chunk that carries the usage.")

    @model_validator(mode="after")
    def _extra(self) -> StreamOptions:
        check_extra(self.model_extra, kind="stream_options", prefix="stream_options.")
        return self


class SamplingFields(Strict):
    """What both routes share. Where a field is left out or null, the deployment's default holds."""

    model: str | None = Field(
        default=None, max_length=256, description="One of /v1/models; default: the first."
    )
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="Answers for each prompt.")
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS, description="Most tokens of an answer.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0 = greedy.")
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=1 << 20, description="0 or -1 = off.")
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=2, description="Over prompt and output.")
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 64, description="Same seed, same answer.")
    stop: TextOrList | None = Field(default=None, description="The answer ends before the first of these.")
    stop_token_ids: list[TokenId] | None = Field(default=None, max_length=128)
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS, description="No end before that many.")
    ignore_eos: bool | None = Field(default=None, description="Go on to max_tokens.")
    skip_special_tokens: bool | None = Field(
        default=None, description="Default true: control tokens give no text."
    )
    bad_words: list[StopString] | None = Field(default=None, max_length=128, description="Never written.")
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, max_length=1024, description="Added to the logits of token ids."
    )
    prompt_logprobs: int | None = Field(
        default=None,
        ge=0,
        le=20,
        description="Log probabilities of the prompt's tokens, with that many alternatives.",
    )
    cache_salt: str | None = Field(
        default=None, max_length=256, description="Requests share cached prefixes only under the same salt."
    )


class TextPart(Strict):
    type: Literal["text"]
    text: Text

    @model_validator(mode="after")
    def _extra(self) -> TextPart:
        check_extra(self.model_extra, kind="part", prefix="messages.content.")
        return self


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[Text, Tag("<text>")]
        | Annotated[list[TextPart], Field(min_length=1, max_length=128, fail_fast=True), Tag("<list>")],
        Discriminator(lambda value: "<list>" if isinstance(value, list) else "<text>"),
    ]
    name: str | None = Field(default=None, pattern=r"^[a-zA-Z0-9_-]{1,64}$")

    @model_validator(mode="after")
    def _extra(self) -> Message:
        check_extra(self.model_extra, kind="message", prefix="messages.")
        return self

    @property
    def text(self) -> str:
        """The content; several parts are joined by newlines."""
        return (
            self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        )


class ChatTemplateKwargs(Strict):
    """Variables for the chat template; only those that the model's template reads are accepted."""

    model_config = ConfigDict(extra="forbid")

    enable_thinking: bool | None = None
    thinking: bool | None = None


class ChatCompletionRequest(SamplingFields):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=2048, fail_fast=True)
    max_completion_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS, description="The newer name of max_tokens; it wins."
    )
    logprobs: bool | None = Field(default=None, description="Log probabilities of the answer's tokens.")
    top_logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Alternatives a token; with logprobs."
    )
    chat_template_kwargs: ChatTemplateKwargs | None = None

    @model_validator(mode="after")
    def _extra(self) -> ChatCompletionRequest:
        check_extra(self.model_extra, kind="chat")
        return self


Prompt = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("<list>")]
    | Annotated[list[TokenId], Field(min_length=1, max_length=MAX_IDS, fail_fast=True), Tag("<ids>")]
    | Annotated[
        list[Annotated[list[TokenId], Field(min_length=1, max_length=MAX_IDS, fail_fast=True)]],
        Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True),
        Tag("<lists>"),
    ],
    Discriminator(_shape),
]


class CompletionRequest(SamplingFields):
    """Body of POST /v1/completions."""

    prompt: Prompt = Field(description="A text, token ids, or a list of either.")
    suffix: Text | None = Field(
        default=None, description="What stands after the gap to fill in; needs `chat.capability: infilling`."
    )
    max_tokens: int | None = Field(
        default=None, ge=0, le=MAX_TOKENS, description="Default 16; 0 with echo scores the prompt."
    )
    echo: bool | None = Field(default=None, description="Put the prompt before the answer.")
    logprobs: int | None = Field(default=None, ge=0, le=20, description="Alternatives a token.")
    best_of: int | None = Field(
        default=None, ge=1, le=MAX_CHOICES, description="Only the value of n is served."
    )

    @model_validator(mode="after")
    def _extra(self) -> CompletionRequest:
        check_extra(self.model_extra, kind="completion")
        return self
