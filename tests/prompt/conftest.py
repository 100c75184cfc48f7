"""Small tokenizers of the three kinds: byte-level, SentencePiece-like, and one that needs its neighbours."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Inner

from deploykit.prompt.tokenizer import Tokenizer

CORPUS = [
    "hello world this is a test of the tokenizer and of  two spaces",
    "The café costs 3 euros; naïve façade. 你好，世界 🐈 with 🐕‍🦺",
    "system user assistant im start end one two three",
] * 20
SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def byte_level() -> Inner:
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(CORPUS, trainer)
    return inner


def _sentencepiece_bpe(**options: object) -> Inner:
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    inner = Inner(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", *SPECIALS, *bytes_], limit_alphabet=60, show_progress=False
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.train_from_iterator(CORPUS, trainer)
    # The trainer marks the byte tokens special; a real vocabulary doesn't add them at all.
    model = inner.model
    inner = Inner(model)
    inner.add_special_tokens([AddedToken(s, normalized=False) for s in ["<unk>", *SPECIALS]])
    return inner


def sentencepiece() -> Inner:
    """As Llama 2's newer files: spaces by the pre-tokenizer, for the first word only."""
    inner = _sentencepiece_bpe()
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return inner


def sentencepiece_legacy() -> Inner:
    """As Llama 2's older files: a normalizer puts a space before every stretch of text."""
    inner = _sentencepiece_bpe()
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return inner


def unigram() -> Inner:
    """Control tokens are pieces of the vocabulary itself here, with the best score there is."""
    pieces = [(token, 0.0) for token in ["<unk>", *SPECIALS]]
    pieces += [(char, -5.0) for char in sorted(set("".join(CORPUS).replace(" ", "▁") + "<|>_/"))]
    pieces += [("▁hello", -2.0), ("▁world", -2.0), ("▁the", -2.0)]
    inner = Inner(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    inner.add_special_tokens([AddedToken(s, normalized=False) for s in ["<unk>", *SPECIALS]])
    return inner


def wordpiece() -> Inner:
    inner = Inner(models.WordPiece(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["<unk>", *SPECIALS], show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    return inner


BUILDERS = {
    "byte_level": byte_level,
    "sentencepiece": sentencepiece,
    "sentencepiece_legacy": sentencepiece_legacy,
    "unigram": unigram,
    "wordpiece": wordpiece,
}


@pytest.fixture(scope="session")
def tokenizers_by_kind() -> dict[str, Tokenizer]:
    return {name: Tokenizer(build()) for name, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def byte_tokenizer(tokenizers_by_kind: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers_by_kind["byte_level"]
