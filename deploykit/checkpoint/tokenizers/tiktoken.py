"""tiktoken files: a line a token, its bytes in base64 and its rank. Special tokens and the expression that cuts text
stand elsewhere: in tokenizer_config.json, or they are known by the model's type."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.pretokenizers import PreTokenizer
from deploykit.checkpoint.tokenizers.assemble import (
    Added,
    add_tokens,
    byte_level_bpe,
    library_errors,
    with_added,
)
from deploykit.checkpoint.tokenizers.merges import TooMuchWork, merges_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENS = 2_000_000


def _byte_names() -> list[str]:
    """How byte-level vocabularies write each byte: printable Latin-1 as itself, the rest from U+0100 on."""
    printable_bytes = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    names, other = [], 0x100
    for byte in range(256):
        if byte in printable_bytes:
            names.append(chr(byte))
        else:
            names.append(chr(other))
            other += 1
    return names


BYTE_NAMES = _byte_names()
_TABLE = {byte: name for byte, name in enumerate(BYTE_NAMES)}


def byte_level_name(data: bytes) -> str:
    """Bytes as a byte-level vocabulary writes them."""
    return data.decode("latin-1").translate(_TABLE)


def is_tiktoken(data: bytes) -> bool:
    """Whether a file's beginning is a line of base64 and a rank."""
    parts = data[:4096].split(b"\n", 1)[0].split()
    if len(parts) != 2 or not parts[1].isdigit():
        return False
    try:
        return bool(base64.b64decode(parts[0], validate=True))
    except binascii.Error:
        return False


def parse(data: bytes, *, file: Path) -> dict[str, int]:
    """Byte-level name -> rank. Raises CheckpointError that names the line."""
    ranks: dict[str, int] = {}
    seen: set[int] = set()
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        parts = line.split()
        try:
            if len(parts) != 2 or not parts[1].isdigit() or len(parts[1]) > 9:
                raise ValueError("a token in base64 and its rank are needed")
            token, rank = base64.b64decode(parts[0], validate=True), int(parts[1])
            name = byte_level_name(token)
            if not token or name in ranks or rank in seen:
                raise ValueError("the token is empty, or it or its rank stands there twice")
            if rank > MAX_TOKENS:
                raise ValueError(f"a rank over {MAX_TOKENS}")
        except ValueError as error:
            raise CheckpointError(
                "the tiktoken file is damaged", file=file, why=f"line {number}: {printable(str(error))}"
            ) from None
        ranks[name] = rank
        seen.add(rank)
    missing = [byte for byte, name in enumerate(BYTE_NAMES) if name not in ranks]
    if missing:
        why = f"{len(missing)} bytes have no token, the first 0x{missing[0]:02x}"
        raise CheckpointError("the tiktoken file is damaged", file=file, why=why)
    return ranks


def build(ranks: dict[str, int], pre: PreTokenizer, added: Sequence[Added], *, file: Path) -> Tokenizer:
    """A tokenizer that encodes as tiktoken does: a piece that is a token is taken whole."""
    try:
        merges = merges_of(ranks, ranks)
    except TooMuchWork as error:
        raise CheckpointError("the vocabulary can't be converted", file=file, why=str(error)) from None
    vocab = with_added(ranks, added, file=file)
    with library_errors(file):
        tokenizer = byte_level_bpe(vocab, merges, pre, whole_words=True)
        add_tokens(tokenizer, added, file=file)
    return tokenizer


# ---------------------------------------------------------------- special tokens by model type


def known_special(model_type: str, ranks: dict[str, int]) -> list[Added] | None:
    """The special tokens of models whose files don't list them; None where the type isn't known."""
    for prefix, names in _SPECIAL.items():
        if model_type == prefix or model_type.startswith(f"{prefix}_"):
            first = max(ranks.values()) + 1
            return [Added(first + i, name, special=True) for i, name in enumerate(names())]
    return None


def with_reserved(model_type: str, ranks: dict[str, int], added: Sequence[Added]) -> list[Added]:
    """Kimi's files name some of the 256 tokens behind the ranks; the rest are reserved ones."""
    if not model_type.startswith(("kimi", "deepseek_v3")):
        return list(added)
    first = max(ranks.values()) + 1
    held = {token.id for token in added}
    rest = [
        Added(i, f"<|reserved_token_{i}|>", special=True) for i in range(first, first + 256) if i not in held
    ]
    return [*added, *rest]


def _qwen() -> list[str]:
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]


def _llama() -> list[str]:
    named = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>",
        "<|step_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    ]
    return [*named, *(f"<|reserved_special_token_{i}|>" for i in range(2, 2 + 256 - len(named)))]


_SPECIAL: dict[str, Callable[[], list[str]]] = {"qwen": _qwen, "llama": _llama, "mllama": _llama}
