"""What sections and values of the recipe's schema are made of: sizes, durations, names."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from .plain import DURATION_PATTERN, DURATION_WORDS, SIZE_PATTERN, SIZE_WORDS
from .plain import MAX_DURATION as MAX_DURATION
from .plain import MAX_SIZE as MAX_SIZE
from .plain import parse_duration as parse_duration
from .plain import parse_size as parse_size
from .plain import slug as slug


def _written(pattern: str, words: str, number: str, maximum: int) -> WithJsonSchema:
    """What a file may hold: a number, or text with a unit."""
    text = {"type": "string", "pattern": pattern, "patternErrorMessage": f"must be {words}"}
    return WithJsonSchema({"anyOf": [{"type": number, "minimum": 0, "maximum": maximum}, text]})


def form(words: str) -> dict[str, Any]:
    """Says in words what a pattern asks for; editors and our own messages show it."""
    return {"patternErrorMessage": f"must be {words}"}


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=0, le=MAX_SIZE),
    _written(SIZE_PATTERN, SIZE_WORDS, "integer", MAX_SIZE),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0, le=MAX_DURATION, allow_inf_nan=False),
    _written(DURATION_PATTERN, DURATION_WORDS, "number", MAX_DURATION),
]
Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
        json_schema_extra=form("1 to 63 of `a-z 0-9 . _ -`, starting with a letter or a digit"),
    ),
]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
HubId = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*$",
        json_schema_extra=form("`owner/name`, such as HuggingFaceTB/SmolLM2-135M-Instruct"),
    ),
]


class Section(BaseModel):
    # Deferred: only Recipe's validator is built, with the others inside it, when the first recipe is checked.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)
