"""What the front process does with converted tokenizers of every kind: text in pieces without a split character or a
lost space, and users' text that never becomes a control token."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from golden_kinds import CASES, vocabulary_file
from test_tokenizer_sentencepiece import trained as sentencepiece_model
from tokenizer_corpus import corpus
from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as Inner

from deploykit.checkpoint.gguf import read_header
from deploykit.checkpoint.gguf_metadata import Metadata
from deploykit.checkpoint.tokenizers import ggml, sentencepiece
from deploykit.prompt.detokenize import Detokenizer
from deploykit.prompt.shield import Shield, special_pattern
from deploykit.prompt.tokenizer import Tokenizer

FILE = Path("tokenizer")


def from_gguf(name: str, tmp: Path) -> Inner:
    case = next(case for case in CASES if case.name == name)
    file = vocabulary_file(case, tmp / "vocab.gguf")
    return ggml.read(Metadata(file, read_header(file).metadata)).build()


def from_sentencepiece(name: str, tmp: Path) -> Inner:
    return sentencepiece.build(sentencepiece.parse(sentencepiece_model(name)), file=FILE)


def newer(name: str, tmp: Path) -> Inner:
    return sentencepiece.build(sentencepiece.parse(sentencepiece_model(name)), file=FILE, legacy=False)


KINDS: dict[str, tuple[Callable[[str, Path], Inner], str]] = {
    "gguf gpt2": (from_gguf, "gpt2 special"),
    "gguf spm": (from_gguf, "spm"),
    "gguf gemma4": (from_gguf, "gemma4"),
    "gguf t5": (from_gguf, "unigram"),
    "gguf bert": (from_gguf, "wordpiece"),
    "llama": (from_sentencepiece, "llama"),
    "llama, not legacy": (newer, "llama"),
    "gemma": (from_sentencepiece, "gemma"),
    "t5": (from_sentencepiece, "t5"),
    "japanese": (from_sentencepiece, "japanese"),
}
WITH_BYTES = ("gguf gpt2", "gguf spm", "llama", "llama, not legacy", "gemma")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    @cache
    def load(kind: str) -> Tokenizer:
        builder, name = KINDS[kind]
        return Tokenizer(builder(name, tmp_path_factory.mktemp("vocab")))

    return load


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(i) for i in ids), detokenizer.finish()]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_make_what_the_whole_makes(loaded: Callable[[str], Tokenizer], kind: str) -> None:
    tokenizer = loaded(kind)
    for text in corpus()[-1500:]:
        ids = tokenizer.encode_pieces(Shield(special_pattern(tokenizer.special_tokens)).pieces(text))
        pieces = pieces_of(tokenizer, ids)
        whole = tokenizer.decode(ids, skip_special=True)
        joined = "".join(pieces)
        assert joined in (whole, " " + whole), repr(text)  # as a continuation, the first space is part of it
        if kind in WITH_BYTES and not any(name in text for name in (*tokenizer.special_tokens, "<tool>")):
            spaced = text.replace("▁", " ") if tokenizer.kind == "sentencepiece" else text
            assert joined in (spaced, " " + spaced), repr(text)
            assert sum("\ufffd" in piece for piece in pieces) <= text.count("\ufffd"), repr(text)


@pytest.mark.parametrize("kind", WITH_BYTES)
def test_an_answer_keeps_its_first_space(loaded: Callable[[str], Tokenizer], kind: str) -> None:
    tokenizer = loaded(kind)
    for answer in (" world", "  two", "world", "\n x", "é", "\tb", "0", ". ", "A"):
        ids = tokenizer.encode_continuation(answer)
        assert "".join(pieces_of(tokenizer, ids)) == answer


@pytest.mark.parametrize("kind", KINDS)
def test_users_text_never_becomes_a_control_token(loaded: Callable[[str], Tokenizer], kind: str) -> None:
    tokenizer = loaded(kind)
    unknown = set(tokenizer.encode("\uffff\U0010fffe"))
    control = tokenizer.special_ids - unknown
    assert control
    names = [tokenizer.token_text(i) for i in sorted(control)]
    wide = [name.translate({c: c + 0xFEE0 for c in range(0x21, 0x7F)}) for name in names]
    pattern = special_pattern(tokenizer.special_tokens)
    texts = [
        text + names[i % len(names)] + text[:3] + wide[i % len(wide)]
        for i, text in enumerate(corpus()[-700:])
    ]
    for text in texts:
        shield = Shield(pattern)
        pieces = shield.pieces(names[0] + shield.cover(text) + names[-1])
        ids = tokenizer.encode_pieces(pieces)
        assert [i for i in ids if i in control] == [min(control), max(control)], repr(text)


def test_halves_of_a_name_that_a_template_puts_together(loaded: Callable[[str], Tokenizer]) -> None:
    tokenizer = loaded("gguf gpt2")
    pattern = special_pattern(tokenizer.special_tokens)
    name = "<|im_end|>"
    for at in range(1, len(name)):
        shield = Shield(pattern)
        rendered = shield.cover("x" + name[:at]) + shield.cover(name[at:] + "y")
        ids = tokenizer.encode_pieces(shield.pieces(rendered))
        assert tokenizer.special_ids.isdisjoint(ids)
        assert tokenizer.decode(ids) == f"x{name}y"
    shield = Shield(pattern)
    assert shield.cover("a < b, c|> and x <") == "a < b, c|> and x <"  # one character alone stays where it is


def test_a_name_is_looked_for_as_it_is_written(loaded: Callable[[str], Tokenizer], tmp_path: Path) -> None:
    """A file whose control tokens are looked for after normalization would take full-width letters for them."""
    inner = from_gguf("gpt2 special", tmp_path)
    inner.normalizer = normalizers.NFKC()
    inner.add_special_tokens([AddedToken("<|im_end|>", normalized=True)])
    tokenizer = Tokenizer(inner)
    assert tokenizer.special_ids.isdisjoint(tokenizer.encode("＜|im_end|＞"))
    assert not tokenizer.special_ids.isdisjoint(tokenizer.encode("<|im_end|>"))


def test_runs_of_spaces_that_are_tokens(loaded: Callable[[str], Tokenizer]) -> None:
    tokenizer = loaded("gemma")
    ids = tokenizer.encode("a    b  c\n\nd")
    assert "".join(pieces_of(tokenizer, ids)) == "a    b  c\n\nd"
    assert tokenizer.token_id("    ") in ids
    assert tokenizer.token_bytes(ids[1]) == b"    "


def test_added_tokens_that_mark_spaces_give_them_back(loaded: Callable[[str], Tokenizer]) -> None:
    """As some tokenizer.json files have it: ▁▁ is an added token there, matched after normalization."""
    state = json.loads(from_sentencepiece("gemma", Path()).to_str())
    for token in state["added_tokens"]:
        if set(token["content"]) == {" "}:
            old = token["content"]
            token |= {"content": old.replace(" ", "▁"), "normalized": True}
            state["model"]["vocab"][token["content"]] = state["model"]["vocab"].pop(old)
    tokenizer = Tokenizer(Inner.from_str(json.dumps(state)))
    ids = tokenizer.encode("a    b")
    assert tokenizer.token_id("▁▁▁▁") in ids
    assert "".join(pieces_of(tokenizer, ids)) == "a    b"
