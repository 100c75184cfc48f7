"""Tokenizers from GGUF metadata: `tokenizer.ggml.model` says the kind, `tokenizer.ggml.pre` how text is cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.gguf_metadata import Metadata
from deploykit.checkpoint.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from deploykit.checkpoint.tokenizers import sentencepiece
from deploykit.checkpoint.tokenizers.assemble import (
    BYTE_TOKENS,
    TURN_TOKENS,
    Added,
    add_tokens,
    byte_level_bpe,
    library_errors,
    spaced,
    spaced_bpe,
)
from deploykit.checkpoint.tokenizers.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_K = "tokenizer.ggml."
_ELSEWHERE = "use the model's checkpoint in safetensors, which brings its own tokenizer"
_NOT_SUPPORTED = {
    "rwkv": "RWKV's longest-match vocabulary has no counterpart in the tokenizers library",
    "plamo2": "PLaMo 2's vocabulary has no counterpart in the tokenizers library",
    "hybriddna": "DNA sequences are cut into k-mers, which has no counterpart in the tokenizers library",
    "whitespace": "it drops white space and belongs to an embedding model",
    "none": "the file has no tokenizer",
    "no_vocab": "the file has no tokenizer",
}
MAX_CHARSMAP = 16 << 20  # bytes


class GgmlTokenizer(msgspec.Struct, kw_only=True):
    """What the metadata says; `build` proves the vocabulary and makes the tokenizer of it (CheckpointError)."""

    tokens: list[str]
    bos: str | None
    eos: str | None
    add_bos: bool
    build: Callable[[], Any]


def read(meta: Metadata, vocab_size: int | None = None) -> GgmlTokenizer:
    """Raises CheckpointError where the kind isn't known, the metadata is wrong, or the model (`vocab_size`: rows of
    its embeddings) is smaller than the vocabulary."""
    kind = meta.text(f"{_K}model")
    builders = {"gpt2": _bpe, "gemma4": _bpe, "llama": _spm, "t5": _unigram, "bert": _wordpiece}
    if kind not in builders:
        known = f"supported: {', '.join(builders)}"
        why = f"{_NOT_SUPPORTED[kind]}; {known}" if kind in _NOT_SUPPORTED else known
        raise CheckpointError(
            f"the tokenizer {printable(repr(kind))} isn't supported in GGUF files",
            file=meta.path,
            why=why,
            fix=_ELSEWHERE,
        )
    tokens = _tokens(meta)
    if vocab_size is not None and len(tokens) > vocab_size:
        why = f"{len(tokens)} tokens, {vocab_size} rows of embeddings"
        raise CheckpointError("the vocabulary is larger than the model", file=meta.path, why=why)
    return builders[kind](meta, tokens)


def _tokens(meta: Metadata) -> list[str]:
    tokens = [t or f"[EMPTY_{i}]" for i, t in enumerate(meta.strings(f"{_K}tokens"))]
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        double = next(t for t in tokens if t in seen or seen.add(t))  # type: ignore[func-returns-value]
        raise meta.bad(f"{_K}tokens", f"the token {printable(repr(double))} stands there twice")
    return tokens


def _named(meta: Metadata, tokens: list[str], role: str, default: int | None = None) -> str | None:
    """The token that has a role: bos, eos, …"""
    index = meta.optional_id(f"{_K}{role}_token_id", len(tokens))
    if index is None:
        index = default
    return tokens[index] if index is not None and index < len(tokens) else None


def _flag(meta: Metadata, key: str, default: bool) -> bool:
    return meta.flag(f"{_K}{key}", default)


def _kinds(meta: Metadata, tokens: list[str]) -> list[int]:
    """The kind of every token; those that end a turn are control tokens, whatever the file says."""
    kinds = meta.values.get(f"{_K}token_type", [NORMAL] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens) or not all(type(k) is int for k in kinds):
        raise meta.bad(f"{_K}token_type", f"{len(tokens)} integers are needed, one a token")
    ends = {_named(meta, tokens, role) for role in ("eos", "eot", "eom")} - {None}
    bytes_ = set(BYTE_TOKENS)
    proven: list[int] = []
    for token, k in zip(tokens, kinds, strict=True):
        if token in TURN_TOKENS or (token in ends and (k != NORMAL or token[:1] in "<[")):
            proven.append(UNKNOWN if k == UNKNOWN else CONTROL)
        elif k == BYTE and token not in bytes_:
            raise meta.bad(f"{_K}token_type", f"{printable(repr(token))} isn't a byte such as <0x0A>")
        else:
            proven.append(k if UNKNOWN <= k <= BYTE else NORMAL)
    return proven


def _scores(meta: Metadata, tokens: list[str]) -> list[float]:
    scores = meta.values.get(f"{_K}scores")
    if (
        not isinstance(scores, list)
        or len(scores) != len(tokens)
        or not all(type(s) in (int, float) and math.isfinite(s) for s in scores)
    ):
        raise meta.bad(f"{_K}scores", f"{len(tokens)} numbers are needed, one a token")
    return [float(s) for s in scores]


def _pieces(meta: Metadata, tokens: list[str]) -> list[tuple[str, float, int]]:
    return list(zip(tokens, _scores(meta, tokens), _kinds(meta, tokens), strict=True))


def _merges(meta: Metadata, vocab: set[str]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for merge in meta.strings(f"{_K}merges"):
        at = merge.find(" ", 1)
        left, right = merge[:at], merge[at + 1 :]
        if at < 0 or not right or left not in vocab or right not in vocab or left + right not in vocab:
            why = f"{printable(repr(merge))} isn't a pair of tokens that make a token"
            raise meta.bad(f"{_K}merges", why)
        merges.append((left, right))
    return merges


def _added(tokens: list[str], kinds: list[int]) -> list[Added]:
    return [
        Added(i, token, special=kind != USER_DEFINED)
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


# ---------------------------------------------------------------- the kinds


def pre_tokenizer(meta: Metadata, default: str = "default") -> PreTokenizer:
    name = meta.text(f"{_K}pre", default) or default
    pre = PRE_TOKENIZERS.get(name)
    if pre is None:
        raise CheckpointError(
            f"the pre-tokenizer {printable(repr(name))} isn't known",
            file=meta.path,
            why=f"tokenizer.ggml.pre says how text is cut into words; known: {', '.join(PRE_TOKENIZERS)}",
            fix=_ELSEWHERE,
        )
    return pre


def _bpe(meta: Metadata, tokens: list[str]) -> GgmlTokenizer:
    gemma = meta.text(f"{_K}model") == "gemma4"
    pre = PRE_TOKENIZERS["gemma4"] if gemma else pre_tokenizer(meta)
    # Gemma 4's files say false by mistake; its text starts with BOS.
    forced = pre == PRE_TOKENIZERS["gemma4"]
    return _finish(
        meta,
        tokens,
        add_bos=forced or _flag(meta, "add_bos_token", pre.add_bos),
        build=lambda: bpe(tokens, _kinds(meta, tokens), _merges(meta, set(tokens)), pre, file=meta.path),
    )


def bpe(
    tokens: list[str], kinds: list[int], merges: list[tuple[str, str]], pre: PreTokenizer, *, file: Path
) -> Tokenizer:
    """Byte-level BPE; where `pre` says so, BPE over characters with ▁ for spaces."""
    vocab = {token: i for i, token in enumerate(tokens)}
    added = _added(tokens, kinds)
    with library_errors(file):
        if pre.byte_level:
            tokenizer = byte_level_bpe(vocab, merges, pre)
        else:
            tokenizer = _lines_bpe(vocab, merges, pre)
            # Runs of line ends are tokens that the merges of some files don't make.
            known = {token.text for token in added} | {left + right for left, right in merges}
            added += [
                Added(i, token, special=False)
                for token, i in vocab.items()
                if set(token) == {"\n"} and len(token) > 1 and token not in known
            ]
        add_tokens(tokenizer, added, file=file)
    return tokenizer


def _lines_bpe(vocab: dict[str, int], merges: list[tuple[str, str]], pre: PreTokenizer) -> Tokenizer:
    from tokenizers import Regex, pre_tokenizers

    fallback = vocab.keys() >= set(BYTE_TOKENS)
    tokenizer = spaced_bpe(vocab, merges, unknown=None, byte_fallback=fallback)
    spaced(tokenizer, prefix=None, byte_fallback=fallback)
    cuts = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in pre.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    return tokenizer


def _spm(meta: Metadata, tokens: list[str]) -> GgmlTokenizer:
    unknown = meta.optional_id(f"{_K}unknown_token_id", len(tokens))
    prefix = "always" if _flag(meta, "add_space_prefix", True) else None
    return _finish(
        meta,
        tokens,
        add_bos=_flag(meta, "add_bos_token", True),
        defaults=(1, 2),
        build=lambda: sentencepiece.assemble(
            _pieces(meta, tokens),
            file=meta.path,
            kind="bpe",
            unknown_id=0 if unknown is None else unknown,
            byte_fallback=set(tokens) >= set(BYTE_TOKENS),
            prefix=prefix,
            collapse=False,
        ),
    )


def _unigram(meta: Metadata, tokens: list[str]) -> GgmlTokenizer:
    unknown = meta.optional_id(f"{_K}unknown_token_id", len(tokens))
    if meta.values.get(f"{_K}treat_whitespace_as_suffix") is True:
        raise meta.unsupported(f"{_K}treat_whitespace_as_suffix")
    collapse = _flag(meta, "remove_extra_whitespaces", False)
    prefix = "always" if _flag(meta, "add_space_prefix", False) or collapse else None
    charsmap = meta.values.get(f"{_K}precompiled_charsmap", [])
    if not isinstance(charsmap, list) or len(charsmap) > MAX_CHARSMAP:
        raise meta.bad(f"{_K}precompiled_charsmap", "a list of bytes is needed")
    try:
        blob = bytes(value & 0xFF for value in charsmap)
    except TypeError:
        raise meta.bad(f"{_K}precompiled_charsmap", "a list of bytes is needed") from None
    return _finish(
        meta,
        tokens,
        add_bos=_flag(meta, "add_bos_token", False),
        defaults=(None, 1),
        build=lambda: sentencepiece.assemble(
            _pieces(meta, tokens),
            file=meta.path,
            kind="unigram",
            unknown_id=2 if unknown is None else unknown,
            byte_fallback=False,
            charsmap=blob,
            prefix=prefix,
            collapse=collapse,
        ),
    )


def _wordpiece(meta: Metadata, tokens: list[str]) -> GgmlTokenizer:
    kinds = _kinds(meta, tokens)
    lower = _flag(meta, "normalizer.lowercase", True)
    accents = _flag(meta, "normalizer.strip_accents", lower)
    # ▁ marks words here, ## what goes on within one in the library.
    names = [
        t.removeprefix("▁") if t.startswith("▁") else t if k != NORMAL or _bracketed(t) else f"##{t}"
        for t, k in zip(tokens, kinds, strict=True)
    ]
    unknown = _named(meta, names, "unknown", 100)
    if len(set(names)) != len(names) or unknown is None:
        raise meta.bad(
            f"{_K}tokens", "words and their parts can't be told apart, or there is no unknown token"
        )

    def build() -> Tokenizer:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

        vocab = {name: i for i, name in enumerate(names)}
        with library_errors(meta.path):
            model = models.WordPiece(vocab=vocab, unk_token=unknown, max_input_chars_per_word=100)
            tokenizer = Tokenizer(model)
            tokenizer.normalizer = normalizers.BertNormalizer(
                clean_text=True, handle_chinese_chars=True, strip_accents=accents, lowercase=lower
            )
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            tokenizer.decoder = decoders.WordPiece()
            add_tokens(tokenizer, _added(names, kinds), file=meta.path)
        return tokenizer

    return _finish(meta, names, add_bos=_flag(meta, "add_bos_token", True), defaults=(101, 102), build=build)


def _bracketed(token: str) -> bool:
    return token.startswith("[") and token.endswith("]") and len(token) > 2


def _finish(
    meta: Metadata,
    tokens: list[str],
    *,
    add_bos: bool,
    build: Callable[[], Any],
    defaults: tuple[int | None, int | None] = (None, None),
) -> GgmlTokenizer:
    bos, eos = (
        _named(meta, tokens, role, default) for role, default in zip(("bos", "eos"), defaults, strict=True)
    )
    return GgmlTokenizer(tokens=tokens, bos=bos, eos=eos, add_bos=add_bos and bos is not None, build=build)
