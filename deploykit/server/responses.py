"""The answers' shapes, for the OpenAPI document. A test checks real answers against them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorBody(Shape):
    message: str
    type: str
    param: str | None
    code: str | None = Field(description="Stable, for programs.")


class ErrorResponse(Shape):
    """Every error of every route."""

    error: ErrorBody


class PromptTokensDetails(Shape):
    cached_tokens: int = Field(ge=0, description="Prompt tokens served from the prefix cache.")


class Usage(Shape):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0, description="Of all choices; the end-of-sequence token counts.")
    total_tokens: int = Field(ge=0)
    prompt_tokens_details: PromptTokensDetails


class AlternativeToken(Shape):
    token: str
    logprob: float
    bytes: list[int]


class ChatToken(AlternativeToken):
    top_logprobs: list[AlternativeToken]


class ChatLogprobs(Shape):
    content: list[ChatToken]
    refusal: None


class PromptToken(Shape):
    logprob: float
    rank: int = Field(ge=1)
    decoded_token: str


PromptLogprobs = list[dict[str, PromptToken] | None]


class AnswerMessage(Shape):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Shape):
    index: int = Field(ge=0)
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Shape):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | None = None


class ChatDelta(Shape):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(Shape):
    index: int = Field(ge=0)
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Shape):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class TextLogprobs(Shape):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Shape):
    index: int = Field(ge=0, description="p * n + i for the i-th answer to prompt p.")
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None = Field(description="Null in a stream, until the choice's last chunk.")
    prompt_logprobs: PromptLogprobs | None = None


class Completion(Shape):
    """Also the shape of a stream's chunks, whose usage is null but for the last."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class Model(Shape):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None = Field(description="Tokens of prompt and output; null while the engine loads.")


class ModelList(Shape):
    object: Literal["list"]
    data: list[Model]


class Health(Shape):
    status: str
    stage: str | None = None
    fraction: float | None = Field(default=None, ge=0, le=1)
    loop_lag_s: float | None = None


class Version(Shape):
    version: str
    engine: str | None
    device: str | None
    dtype: str | None


def all_shapes() -> dict[str, type[BaseModel]]:
    """By name, those that a route answers with."""
    shapes: list[type[BaseModel]] = [
        ErrorResponse,
        ChatCompletion,
        ChatCompletionChunk,
        Completion,
        Model,
        ModelList,
        Health,
        Version,
    ]
    return {shape.__name__: shape for shape in shapes}


Json = dict[str, Any]
