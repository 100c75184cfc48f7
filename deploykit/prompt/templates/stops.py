"""A template's stop words: those that are control tokens end an answer by their id, since they give no text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from deploykit.prompt.tokenizer import Tokenizer


class TemplateStops(NamedTuple):
    """`texts` are watched for in the answer, `ids` are tokens that end it."""

    texts: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()


NO_STOPS = TemplateStops()


def template_stops(words: Iterable[str], tokenizer: Tokenizer) -> TemplateStops:
    """Stop words as this vocabulary has them."""
    texts: dict[str, None] = {}
    ids: dict[int, None] = {}
    for word in words:
        token_id = tokenizer.token_id(word)
        if token_id is not None and token_id in tokenizer.special_ids:
            ids[token_id] = None
        else:
            texts[word] = None
    return TemplateStops(tuple(texts), tuple(ids))
