"""Vocabularies put together as tokenizers of the `tokenizers` library, which is imported when the first is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.pretokenizers import PreTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "▁"
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
# Tokens that end a turn or frame one are control tokens, also in files that call them something else: a user's text
# that looks like one must not become one.
TURN_TOKENS = frozenset(
    {
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_sep|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|end_of_text|>",
        "<|begin_of_text|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<turn|>",
        "<|turn>",
        "[EOT]",
        "[EOS]",
        "[INST]",
        "[/INST]",
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
    }
)


class Added(NamedTuple):
    """A token that is found in the text before anything else."""

    id: int
    text: str
    special: bool  # a control token
    lstrip: bool = False  # takes the white space before it
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False  # looked for after normalization, not in the text as it is


def from_library(error: BaseException) -> bool:
    """The `tokenizers` library raises bare Exception, and where its Rust code panics a BaseException."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextlib.contextmanager
def library_errors(file: Path, what: str = "the tokenizer can't be built") -> Iterator[None]:
    """Whatever the library finds wrong, as a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:
        if not from_library(error):
            raise
        raise CheckpointError(what, file=file, why=printable(str(error), 300)) from None


def byte_level_bpe(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    pre: PreTokenizer,
    *,
    whole_words: bool | None = None,
) -> Tokenizer:
    """Byte-level BPE: each byte is written as one character."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    whole = pre.whole_words if whole_words is None else whole_words
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=whole))
    if pre.nfc:
        tokenizer.normalizer = normalizers.NFC()
    cuts: list[Any] = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in pre.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def spaced_bpe(
    vocab: dict[str, int], merges: list[tuple[str, str]], *, unknown: str | None, byte_fallback: bool
) -> Tokenizer:
    """BPE over characters, with spaces written as ▁; see `spaced` for how they get there."""
    from tokenizers import Tokenizer, models

    model = models.BPE(
        vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback
    )
    return Tokenizer(model)


def unigram(pieces: list[tuple[str, float]], *, unknown_id: int, byte_fallback: bool) -> Tokenizer:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.Unigram(pieces, unk_id=unknown_id, byte_fallback=byte_fallback))


def spaced(
    tokenizer: Tokenizer,
    *,
    normalizers_first: Sequence[Any] = (),
    prefix: str | None,
    collapse: bool = False,
    byte_fallback: bool = True,
) -> None:
    """Spaces as ▁, in the text and back.

    `prefix`: "always" writes one before every stretch of text between added tokens, "first" before the text alone,
    None never. `collapse`: runs of spaces are one, and those at the ends go.
    """
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    steps = list(normalizers_first)
    if collapse:
        steps += [
            normalizers.Replace(Regex(rf"\A +|(?<![ {SPACE}])[ {SPACE}]++\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    if prefix == "always":
        steps.append(normalizers.Prepend(SPACE))
    if prefix == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=SPACE, prepend_scheme="first", split=False
        )
    steps.append(normalizers.Replace(" ", SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    back: list[Any] = [decoders.Replace(SPACE, " ")]
    if byte_fallback:
        back.append(decoders.ByteFallback())
    back.append(decoders.Fuse())
    if prefix is not None:
        back.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(back)


def add_tokens(tokenizer: Tokenizer, added: Sequence[Added], *, file: Path) -> None:
    """Register tokens: those that the model's vocabulary holds keep their ids, others go on after it in order."""
    from tokenizers import AddedToken

    tokenizer.add_tokens(
        [
            AddedToken(
                t.text,
                lstrip=t.lstrip,
                rstrip=t.rstrip,
                single_word=t.single_word,
                normalized=t.normalized,
                special=t.special,
            )
            for t in sorted(added)
        ]
    )
    for t in added:
        if (got := tokenizer.token_to_id(t.text)) != t.id:
            why = f"it should have id {t.id} and has {got}"
            raise CheckpointError(
                f"the token {printable(repr(t.text))} isn't at its place", file=file, why=why
            )


def with_added(vocab: Mapping[str, int], added: Sequence[Added], *, file: Path) -> dict[str, int]:
    """The vocabulary with its added tokens in it. Raises CheckpointError where two claim an id or a name."""
    whole = dict(vocab)
    names = {i: text for text, i in whole.items()}
    for token in added:
        held = names.get(token.id)
        if held == token.text:
            continue
        if held is not None:
            why = f"{printable(repr(held))} and {printable(repr(token.text))}"
            raise CheckpointError(f"two tokens have the id {token.id}", file=file, why=why)
        if whole.get(token.text, token.id) != token.id:
            why = f"{whole[token.text]} and {token.id}"
            raise CheckpointError(f"the token {printable(repr(token.text))} has two ids", file=file, why=why)
        whole[token.text] = token.id
        names[token.id] = token.text
    return whole
