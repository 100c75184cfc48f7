"""Prompts around a gap, and stop words by text and by id."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Inner

from deploykit.errors import ConfigError
from deploykit.prompt.templates.infill import InfillTokens, split_gap
from deploykit.prompt.templates.stops import TemplateStops, template_stops
from deploykit.prompt.tokenizer import Tokenizer

CODE_LLAMA = ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
QWEN = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]


def with_tokens(tokenizer: Tokenizer, tokens: list[str]) -> Tokenizer:
    """The same tokenizer with more control tokens."""
    inner = Inner.from_str(tokenizer._inner.to_str())
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in tokens])
    return Tokenizer(inner)


def test_code_llamas_prompt(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    tokenizer = with_tokens(tokenizers_by_kind["sentencepiece"], CODE_LLAMA)
    tokens = InfillTokens.find(tokenizer)
    ids = tokens.encode("hello world", "this is", tokenizer)
    names = [tokenizer.token_text(i) for i in ids if i in tokenizer.special_ids]
    assert names == ["▁<PRE>", "▁<SUF>", "▁<MID>"]
    assert ids[0] == tokens.prefix
    assert ids[-1] == tokens.middle
    cut = ids.index(tokens.suffix)
    assert ids[1:cut] == tokenizer.encode(
        "hello world"
    )  # with the space that the vocabulary puts before a text
    assert "".join(tokenizer.token_text(i) for i in ids[cut + 1 : -1]) == "this is"  # and without it
    assert tokens.ends == (tokenizer.token_id("▁<EOT>"),)


def test_other_families_and_none(byte_tokenizer: Tokenizer) -> None:
    tokenizer = with_tokens(byte_tokenizer, QWEN)
    tokens = InfillTokens.find(tokenizer)
    text = tokenizer.decode(tokens.encode("def f(", "\n    return x", tokenizer))
    assert text == "<|fim_prefix|>def f(<|fim_suffix|>\n    return x<|fim_middle|>"
    assert tokens.ends == (tokenizer.token_id("<|fim_pad|>"),)
    assert (
        tokenizer.decode(tokens.encode("", "x", tokenizer)) == "<|fim_prefix|><|fim_suffix|>x<|fim_middle|>"
    )
    with pytest.raises(ConfigError, match="can't fill in"):
        InfillTokens.find(byte_tokenizer)


def test_the_gap_of_a_prompt() -> None:
    assert split_gap("a <FILL> b") == ("a ", " b")
    assert split_gap("<FILL>") == ("", "")
    assert split_gap("a b") is None
    with pytest.raises(ValueError, match="has 2"):
        split_gap("<FILL><FILL>")


def test_stop_words_that_are_control_tokens_stop_by_id(byte_tokenizer: Tokenizer) -> None:
    end = byte_tokenizer.token_id("<|im_end|>")
    assert end is not None
    found = template_stops(["<|im_end|>", "### User:", "<|none|>", "<|im_end|>"], byte_tokenizer)
    assert found == TemplateStops(("### User:", "<|none|>"), (end,))
