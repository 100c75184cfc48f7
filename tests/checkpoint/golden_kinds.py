"""The cases of golden_tokenizers.json: a vocabulary, how it is cut, and the texts that llama.cpp is asked about."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from gguf_writer import int32_list, write_gguf
from tokenizer_vocabs import byte_vocabulary, pieces, word_pieces

from deploykit.checkpoint.pretokenizers import LOWER, PRE_TOKENIZERS, UPPER, PreTokenizer

Comparable = Callable[[str], bool]


class Case(NamedTuple):
    name: str
    kind: str  # tokenizer.ggml.model
    pre: str = "default"
    special: bool = False  # whether control tokens in the text are looked for
    comparable: Comparable = lambda text: (
        True
    )  # texts on which llama.cpp does what the model's tokenizer does


def composed(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text)


def plain_spaces(text: str) -> bool:
    """llama.cpp takes wide spaces for another character where an expression has a range that holds them."""
    return not any(c.isspace() and not c.isascii() for c in text)


def digits_after_words(text: str) -> bool:
    """llama.cpp doesn't cut before a group of digits, so two spaces or a control character there differ."""
    return not any(
        unicodedata.category(c)[0] == "N"
        and (unicodedata.category(text[i - 1])[0] == "C" or (i > 1 and text[i - 2 : i].isspace()))
        for i, c in enumerate(text)
        if i
    )


def common_han(text: str) -> bool:
    """Han to Unicode, not to llama.cpp."""
    return not set(text) & set("々〇")


def ascii_digits(text: str) -> bool:
    """llama.cpp groups ASCII digits only, and leaves fractions and the like beside them where they are."""
    return not any(unicodedata.category(c)[0] == "N" and not c.isascii() for c in text)


def words(text: str) -> bool:
    """llama.cpp writes no space before spaces alone."""
    return all(part.strip(" ") for part in text.split("<tool>") if part)


def plain_words(text: str) -> bool:
    """llama.cpp's WordPiece takes all marks for accents and some control characters for spaces, reads a written ▁ as
    its own, and cuts words of any length."""
    odd = any(c in "▁\x0b\x0c\x1f\x85\u2028" or unicodedata.category(c) in ("Mc", "Me") for c in text)
    return not odd and all(len(word) <= 100 for word in text.split())


_COMPARABLE: dict[str, Comparable] = {
    "deepseek-llm": plain_spaces,
    "deepseek-coder": plain_spaces,
    "afmoe": digits_after_words,
    "tiny_aya": digits_after_words,
    "kimi-k2": common_han,
    "superbpe": ascii_digits,
}


def anything(text: str) -> bool:
    return True


def _cases() -> list[Case]:
    names: dict[PreTokenizer, str] = {}
    for name, pre in PRE_TOKENIZERS.items():
        names.setdefault(pre, name)
    cases = [
        Case(f"pre {name}", "gpt2", name, comparable=_COMPARABLE.get(name, composed if pre.nfc else anything))
        for pre, name in names.items()
        if pre.byte_level
    ]
    return [
        *cases,
        Case("gpt2 special", "gpt2", "llama-bpe", special=True),
        Case("spm", "llama"),
        Case("spm special", "llama", special=True),
        Case("spm no prefix", "llama", pre="no prefix"),
        Case("gemma4", "gemma4", "gemma4"),
        Case("unigram", "t5", comparable=words),
        Case("wordpiece", "bert", comparable=plain_words),
    ]


CASES = _cases()


def chunk_numbers(case: Case, total: int, *, asked: bool = False) -> list[int]:
    """The chunks of texts that a case is compared on; `asked`: that llama.cpp is asked about.

    Together the pre-tokenizers see every text, each of them some; each kind of vocabulary sees all of them.
    """
    first = CASES.index(case) * 3
    count = total
    if not asked and (
        case.name.startswith("pre ") or case.name in ("gpt2 special", "spm special", "spm no prefix")
    ):
        count = 2
    return sorted((first + i) % total for i in range(count))


def as_llama_cpp(pre: PreTokenizer, name: str) -> PreTokenizer:
    """The expressions with llama.cpp's approximations in them, where it has some."""
    ascii_case = {UPPER: r"(?:(?=\p{L})[^a-z])", LOWER: r"(?:(?=\p{L})[^A-Z])"}
    no_case = {UPPER: r"[\p{L}\p{M}]", LOWER: r"[\p{L}\p{M}]"}
    marked = {UPPER: r"(?:(?=[\p{L}\p{M}])[^a-z])", LOWER: r"(?:(?=[\p{L}\p{M}])[^A-Z])"}
    exchanges: dict[str, dict[str, str]] = {
        "tekken": ascii_case,
        "gpt-4o": ascii_case,
        "granite-embed-multi-97m": marked,
        "tiny_aya": no_case,
        "youtu": no_case,
        "kimi-k2": {
            UPPER[:-1] + r"&&[^\p{Han}]]": r"[\p{L}&&[^\p{Han}]]",
            LOWER[:-1] + r"&&[^\p{Han}]]": r"[\p{L}&&[^\p{Han}]]",
        },
    }
    patterns = pre.patterns
    for old, new in exchanges.get(name, {}).items():
        patterns = tuple(pattern.replace(old, new) for pattern in patterns)
    return pre._replace(patterns=patterns, nfc=False)


def metadata(case: Case) -> dict[str, Any]:
    values: dict[str, Any] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": case.kind,
        "tokenizer.ggml.pre": "default" if case.pre == "no prefix" else case.pre,
        "tokenizer.ggml.add_bos_token": False,
    }
    if case.kind == "gpt2":
        vocabulary = byte_vocabulary()
        tokens, kinds = vocabulary.tokens, vocabulary.kinds
        values["tokenizer.ggml.merges"] = [f"{a} {b}" for a, b in vocabulary.merges]
        values |= {
            f"tokenizer.ggml.{role}_token_id": tokens.index(t)
            for role, t in (("bos", "<s>"), ("eos", "</s>"))
        }
    elif case.kind == "bert":
        rows = word_pieces()
        tokens, kinds = [t for t, _ in rows], [k for _, k in rows]
        ids = {"bos": 2, "eos": 3, "unknown": 1, "seperator": 3, "padding": 0, "mask": 4}
        values |= {f"tokenizer.ggml.{role}_token_id": i for role, i in ids.items()}
    else:
        table = pieces("unigram" if case.kind == "t5" else "bpe")
        tokens, kinds = [t for t, _, _ in table], [k for _, _, k in table]
        values["tokenizer.ggml.scores"] = [float(s) for _, s, _ in table]
        values |= {
            f"tokenizer.ggml.{role}_token_id": i for role, i in (("bos", 1), ("eos", 2), ("unknown", 0))
        }
    if case.kind == "t5":
        values |= {"tokenizer.ggml.add_space_prefix": True, "tokenizer.ggml.remove_extra_whitespaces": False}
    if case.pre == "no prefix":
        values["tokenizer.ggml.add_space_prefix"] = False
    if case.kind == "gemma4":
        from deploykit.checkpoint.tokenizers.merges import merges_of

        ranks = {t: -s for t, s, k in pieces("bpe") if k == 1}
        values["tokenizer.ggml.merges"] = [f"{a} {b}" for a, b in merges_of(ranks, ranks)]
    values["tokenizer.ggml.tokens"] = tokens
    values["tokenizer.ggml.token_type"] = int32_list(kinds)
    return values


def vocabulary_file(case: Case, path: Path) -> Path:
    return write_gguf(path, metadata(case))


def digest(pairs: Iterable[tuple[str, list[int]]], comparable: Comparable) -> str:
    """Of the ids of the texts that are comparable."""
    data = json.dumps([ids for text, ids in pairs if comparable(text)], separators=(",", ":"))
    return hashlib.sha256(data.encode()).hexdigest()[:16]
