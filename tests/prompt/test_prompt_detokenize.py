"""Detokenizing as tokens arrive: what comes out is what decoding the whole gives, piece by piece and never split."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.prompt.detokenize import Detokenizer
from deploykit.prompt.tokenizer import Tokenizer

TEXTS = [
    "hello world",
    "The café costs 3 euros; naïve façade.",
    "你好，世界 🐈 with 🐕‍🦺 and  two spaces ",
    "\n\n  indented\n\tcode\n",
    "e\u0301 combining, ﷽, \u200b zero width",
]
LOSSLESS = ("byte_level", "sentencepiece", "sentencepiece_legacy")


def whole(tokenizer: Tokenizer, ids: list[int]) -> tuple[str, list[str]]:
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token) for token in ids]
    return "".join(pieces) + detokenizer.finish(), pieces


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", LOSSLESS)
def test_pieces_make_the_text(tokenizers_by_kind: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = tokenizers_by_kind[kind]
    ids = tokenizer.encode(text)
    joined, pieces = whole(tokenizer, ids)
    # As the continuation of a prompt: SentencePiece's own first space is part of it.
    assert joined.removeprefix(" " if kind != "byte_level" else "") == tokenizer.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_continuation_keeps_its_space(tokenizers_by_kind: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers_by_kind[kind]
    prompt, answer = tokenizer.encode("hello"), tokenizer.encode_continuation(" world")
    assert tokenizer.decode(prompt + answer) == "hello world"
    assert whole(tokenizer, answer)[0] == " world"


def test_words_of_a_wordpiece_vocabulary(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_by_kind["wordpiece"]
    ids = tokenizer.encode("hello world this is a tokenizer test")
    assert whole(tokenizer, ids)[0] == tokenizer.decode(ids)


def test_control_tokens_give_no_text(byte_tokenizer: Tokenizer) -> None:
    ids = byte_tokenizer.encode("hello<|im_end|> world")
    assert whole(byte_tokenizer, ids)[0] == "hello world"
    shown = Detokenizer(byte_tokenizer, skip_special=False)
    assert shown.push_all(ids) == "hello<|im_end|> world"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_tokens_decode_as_the_whole_does(byte_tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(4, byte_tokenizer.vocab_size - 1), max_size=40))
    assert whole(byte_tokenizer, ids)[0] == byte_tokenizer.decode(ids)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_survives(byte_tokenizer: Tokenizer, text: str) -> None:
    joined, pieces = whole(byte_tokenizer, byte_tokenizer.encode(text))
    assert joined == text or any(name in text for name in byte_tokenizer.special_tokens)
    assert sum("\ufffd" in piece for piece in pieces) <= text.count("\ufffd")


def test_an_unfinished_character_is_shown_at_the_end(byte_tokenizer: Tokenizer) -> None:
    ids = byte_tokenizer.encode("a\U0001f9a4")[:-1]  # a bird that the vocabulary has in bytes
    assert whole(byte_tokenizer, ids)[0] == "a\ufffd"


def test_bytes_that_never_make_a_character_still_come_out(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    for kind in ("byte_level", "sentencepiece"):
        tokenizer = tokenizers_by_kind[kind]
        one = next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"\xff")
        pieces = whole(tokenizer, [one] * 100)[1]
        assert "".join(pieces) == "\ufffd" * 100


def test_the_window_of_other_decoders_stays_short(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_by_kind["wordpiece"]
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode("hello world this is a test " * 30)
    random.Random(0).shuffle(ids)
    for token in ids:
        detokenizer.push(token)
        assert len(detokenizer._window) < 60


def test_token_bytes(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    for kind in LOSSLESS:
        tokenizer = tokenizers_by_kind[kind]
        ids = tokenizer.encode("The café 🐈")
        assert b"".join(map(tokenizer.token_bytes, ids)).strip() == "The café 🐈".encode()
        assert tokenizer.token_bytes(10**6) == b""
