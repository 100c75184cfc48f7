"""How a vocabulary cuts text before its merges apply: `tokenizer.ggml.pre` -> the regular expressions behind the name.

Each name stands for a list of expressions, applied one after the other: every match and every stretch between
matches becomes a piece, which the next expression cuts further.
"""

from __future__ import annotations

from typing import NamedTuple

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL


class PreTokenizer(NamedTuple):
    patterns: tuple[str, ...]
    nfc: bool = False  # text is composed (Unicode NFC) first
    whole_words: bool = False  # a piece that is a token is taken as it is, whatever the merges say
    add_bos: bool = False  # where the file doesn't say


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": PreTokenizer((_GPT2,)),
    "smollm": PreTokenizer((r"\p{N}", _GPT2)),  # every digit on its own
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "llama-bpe": PreTokenizer((_LLAMA3,), whole_words=True, add_bos=True),
    "qwen2": PreTokenizer((_QWEN2,), nfc=True),
}
