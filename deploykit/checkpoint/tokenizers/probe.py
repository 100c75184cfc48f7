"""The check that every tokenizer passes before it is used: text comes back, special tokens are one token each.

What a vocabulary can't say (characters it has no token for, forms that its normalizer takes away) isn't held against
it; a tokenizer that claims all bytes must give everything back.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.tokenizers.assemble import BYTE_TOKENS, SPACE, library_errors
from deploykit.checkpoint.tokenizers.tiktoken import BYTE_NAMES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROBES = (
    "The quick brown fox jumps over 12 lazy dogs, isn't it?",
    "Ça va très bien, à bientôt! Größe, Maße, Übermut; naïve façade",
    "Zażółć gęślą jaźń. Árvíztűrő tükörfúrógép. İstanbul ılık",
    "Съешь ещё этих мягких французских булок, да выпей чаю",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "שלום עולם، مرحبا بالعالم، سلام دنیا",
    "नमस्ते दुनिया — বাংলা ভাষা — தமிழ் மொழி — สวัสดีชาวโลก",
    "你好，世界！今天天气怎么样？ 繁體中文 こんにちは世界、カタカナ 안녕하세요",
    "👨‍👩‍👧‍👦 🇩🇪 ❤️ 😀 𝕳𝖊𝖑𝖑𝖔",
    "def fib(n):\n    return n if n < 2 else fib(n - 1)  # O(2^n)\n\n\tx = {'a': [1, 2.50, -3e10]}\r\n",
    "0 1 12 123 1234 12345678901234567890 3.14159 2024-02-29 $1,234.56 50% x² ½",
    " a  b   c    d     e                e\n\n\n\nf\t\tg ",
    "https://example.com/a_b?c=d&e=%20#f <b>bold</b> \\frac{a}{b} ~`!@#$%^&*()-_=+[]{}|;:'\",.<>/?",
)


def check(tokenizer: Tokenizer, *, file: Path, single: Iterable[str] = ()) -> None:
    """Raises CheckpointError naming the text or the token that fails. `single`: tokens that must be one token."""
    with library_errors(file, "the tokenizer fails on plain text"):
        _check_text(tokenizer, file)
        _check_special(tokenizer, file, set(single))


def _check_text(tokenizer: Tokenizer, file: Path) -> None:
    lossless = _says_everything(tokenizer)
    for text in PROBES:
        wanted = _normalized(tokenizer, text)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        got = tokenizer.decode(ids, skip_special_tokens=False)
        if lossless and got.strip(" ") != wanted.strip(" "):
            at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), 0)
            why = (
                f"{printable(repr(wanted[at : at + 30]))} comes back as {printable(repr(got[at : at + 30]))}"
            )
            raise CheckpointError(
                "the tokenizer doesn't give text back as it was",
                file=file,
                why=why,
                fix="fetch the tokenizer's files again; if it stays so, its files don't belong together",
            )
    if not any(tokenizer.encode(text, add_special_tokens=False).ids for text in PROBES):
        raise CheckpointError("the tokenizer makes no tokens of any text", file=file)


def _normalized(tokenizer: Tokenizer, text: str) -> str:
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    return text.replace(SPACE, " ")


def _says_everything(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary has a token for every byte, and the decoder is one of those that lose nothing."""
    model = tokenizer.model
    if getattr(model, "continuing_subword_prefix", None) or getattr(model, "end_of_word_suffix", None):
        return False
    decoder, cuts = (_state(part) for part in (tokenizer.decoder, tokenizer.pre_tokenizer))
    if '"ByteLevel"' in decoder:
        return '"ByteLevel"' in cuts and all(tokenizer.token_to_id(name) is not None for name in BYTE_NAMES)
    whole = '"ByteFallback"' in decoder and all(tokenizer.token_to_id(n) is not None for n in BYTE_TOKENS)
    # A character that no vocabulary has: it comes out as bytes where the model falls back to them.
    return whole and BYTE_TOKENS[0xF4] in tokenizer.encode("\U0010fffe", add_special_tokens=False).tokens


def _state(part: Any) -> str:
    state: bytes | str = b"" if part is None else part.__getstate__()
    return state.decode() if isinstance(state, bytes) else state


def _check_special(tokenizer: Tokenizer, file: Path, single: set[str]) -> None:
    for token_id, token in tokenizer.get_added_tokens_decoder().items():
        if not token.content or not (token.special or token.content in single):
            continue
        ids = tokenizer.encode(token.content, add_special_tokens=False).ids
        if ids != [token_id]:
            why = f"it has the id {token_id} and is encoded as {printable(str(ids), 60)}"
            raise CheckpointError(
                f"the special token {printable(repr(token.content))} isn't one token", file=file, why=why
            )
