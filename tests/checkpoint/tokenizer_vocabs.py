"""Vocabularies made up so that every cut that a pre-tokenizer makes shows in the tokens: the same on every machine."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tokenizer_corpus import corpus

from deploykit.checkpoint.tokenizers.tiktoken import BYTE_NAMES, byte_level_name

PIECES = Path(__file__).parent / "golden_pieces.json"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
CONTROLS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


class ByteVocabulary(NamedTuple):
    tokens: list[str]
    kinds: list[int]
    merges: list[tuple[str, str]]


@cache
def byte_vocabulary() -> ByteVocabulary:
    """All bytes; half of all pairs of the bytes that the corpus has, in no order; some of three; some words that no
    merges make; control and user-defined tokens."""
    rng = random.Random(7)
    used = sorted({byte for text in corpus() for byte in text.encode()})
    pairs = [(BYTE_NAMES[a], BYTE_NAMES[b]) for a in used for b in used if rng.random() < 0.5]
    rng.shuffle(pairs)
    names = [BYTE_NAMES[b] for b in used]
    triples = {(a + b, rng.choice(names)) for a, b in rng.choices(pairs, k=6000)}
    merges = pairs + sorted(triples)
    rng.shuffle(merges)
    tokens = list(dict.fromkeys([*BYTE_NAMES, *(a + b for a, b in merges)]))
    made = set(tokens)
    kept: dict[str, tuple[str, str]] = {}
    for pair in merges:  # one way to make a token, the first
        kept.setdefault(pair[0] + pair[1], pair)
    words = [
        " the",
        "hello",
        "Hello",
        " мир",
        "12345",
        "\n\n\n",
        "    ",
        " world",
        "你好世界",
        "++i",
        " don",
        "1234",
    ]
    tokens += [name for name in (byte_level_name(w.encode()) for w in words) if name not in made]
    kinds = [NORMAL] * len(tokens)
    extra = [*CONTROLS, "<tool>"]
    return ByteVocabulary(tokens + extra, kinds + [CONTROL] * 4 + [USER_DEFINED], list(kept.values()))


def pieces(kind: str) -> list[tuple[str, float, int]]:
    """A small vocabulary that SentencePiece's trainer made (text, score, kind); `kind`: bpe or unigram."""
    return [(text, score, k) for text, score, k in json.loads(PIECES.read_text())[kind]]


def word_pieces() -> list[tuple[str, int]]:
    """A WordPiece vocabulary as GGUF writes it: ▁ before words, nothing before their parts."""
    chars = sorted({c.lower() for text in corpus(6000) for c in text if not c.isspace() and c != "▁"})
    rng = random.Random(9)
    words = sorted({w.lower() for text in corpus(4000) for w in text.split() if w.isalpha()} - set(chars))
    parts = sorted({w[i:] for w in words for i in range(1, len(w)) if rng.random() < 0.2})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    chosen = rng.sample(words, len(words) // 2)
    tokens = [
        *(f"▁{c}" for c in chars),
        *chars,
        *(f"▁{w}" for w in chosen if len(w) > 1),
        *(p for p in parts if len(p) > 1),
    ]
    return [*((t, CONTROL) for t in special), *((t, NORMAL) for t in dict.fromkeys(tokens))]
