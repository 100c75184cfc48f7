"""GPT-2's layout: vocab.json (token -> id) and merges.txt (a pair a line, the best first)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.pretokenizers import PreTokenizer
from deploykit.checkpoint.tokenizers.assemble import (
    Added,
    add_tokens,
    byte_level_bpe,
    library_errors,
    with_added,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_ID = 1 << 24


def parse_vocab(content: dict[str, Any], *, file: Path) -> dict[str, int]:
    ids = set()
    for token, i in content.items():
        if type(i) is not int or not 0 <= i < MAX_ID or i in ids or not token:
            why = f"{printable(repr(token))}: {printable(repr(i))}"
            raise CheckpointError("a token's id is wrong, or stands there twice", file=file, why=why)
        ids.add(i)
    if not ids:
        raise CheckpointError("the vocabulary is empty", file=file)
    return content


def parse_merges(text: str, vocab: dict[str, int], *, file: Path) -> list[tuple[str, str]]:
    """The pairs of merges.txt, whose first line may be a version."""
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        if left not in vocab or right not in vocab or left + right not in vocab:
            why = f"line {number}: {printable(repr(line))} isn't a pair of tokens that make a token"
            raise CheckpointError("the merges don't fit the vocabulary", file=file, why=why)
        merges.append((left, right))
    return merges


def build(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    pre: PreTokenizer,
    added: Sequence[Added],
    *,
    file: Path,
) -> Tokenizer:
    whole = with_added(vocab, added, file=file)
    with library_errors(file):
        tokenizer = byte_level_bpe(whole, merges, pre)
        add_tokens(tokenizer, added, file=file)
    return tokenizer
