"""tokenizer.json, loaded once: encoding that keeps a user's text text, and the bytes of every token."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers

from deploykit.errors import ConfigError
from deploykit.prompt.errors import PromptTooLong
from deploykit.prompt.shield import Piece
from deploykit.prompt.vocab import (
    Kind,
    byte_level_bytes,
    decoder_kind,
    falls_back_to_bytes,
    sentencepiece_bytes,
)


class Tokenizer:
    """Thread-safe once loaded: nothing of it changes. Encoding lets other threads run.

    `special_tokens` are the control tokens (`special: true` of added_tokens): they are encoded as control tokens
    where a template or a plain prompt writes them, and as plain text where they come with a message's content.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.no_padding()
        inner.no_truncation()
        _match_as_written(inner)
        self._inner = inner
        added = inner.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.special_tokens = tuple(self._added[token_id] for token_id in sorted(self.special_ids))
        self.kind: Kind = decoder_kind(inner.decoder)
        self._has_byte_tokens = falls_back_to_bytes(inner.decoder)
        vocab = inner.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        # A byte-level vocabulary writes each byte as one character.
        size = len if self.kind == "byte_level" else lambda token: len(token.encode())
        self.max_token_bytes = max((size(token) for token in vocab), default=1)
        del vocab
        # The same model without added tokens (shared, not copied): what it encodes can't become a control token.
        self._plain = tokenizers.Tokenizer(inner.model)
        if inner.normalizer is not None:
            self._plain.normalizer = inner.normalizer
        if inner.pre_tokenizer is not None:
            self._plain.pre_tokenizer = inner.pre_tokenizer
        # What no vocabulary knows shows which token stands for the unknown: that one is special and no control token.
        unknown = self._plain.encode("\uffff\U0010fffe", add_special_tokens=False).ids
        self._control_ids = self.special_ids.difference(unknown)
        self._anchors = self._find_anchors()
        self.token_bytes = functools.lru_cache(maxsize=65536)(self._token_bytes)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Raises ConfigError where the file is missing or no tokenizer.json."""
        if not Path(path).is_file():
            raise ConfigError("the tokenizer is missing", where=str(path))
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except (
            BaseException
        ) as error:  # the library raises bare Exception, and where its Rust code panics neither
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ConfigError("the tokenizer can't be read", where=str(path), why=str(error)) from None

    # ------------------------------------------------------------ text to tokens

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; control tokens written in it become control tokens. No BOS is added."""
        return self._encode_written(text, "")

    def encode_pieces(self, pieces: Sequence[Piece], *, continued: bool = False) -> list[int]:
        """Token ids of a rendered prompt; literal pieces never give a control token.

        `continued`: the pieces stand after other text, so that no space is put before the first.
        """
        ids: list[int] = []
        for position, piece in enumerate(pieces):
            first = position == 0 and not continued
            if piece.literal:
                ids += self._encode_literal(piece.text, first=first)
            elif first:
                ids += self.encode(piece.text)
            else:
                ids += self._encode_rest(self._inner, piece.text)
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of `text` as it would stand within a longer text: no space is put before it."""
        return self._encode_rest(self._inner, text)

    def check_length(self, texts: Iterable[str], session_len: int) -> None:
        """Refuse a text that can't fit however well it tokenizes, before any time goes into tokenizing it.

        A text of B bytes has at least B / (bytes of the longest token) tokens. Raises PromptTooLong.
        """
        size = sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
        least = -(-size // self.max_token_bytes)
        if least > session_len:
            raise PromptTooLong(least, session_len, counted=False)

    def _encode_literal(self, text: str, *, first: bool) -> list[int]:
        ids = (
            self._plain.encode(text, add_special_tokens=False).ids
            if first
            else self._encode_rest(self._plain, text)
        )
        if self._control_ids.isdisjoint(ids):
            return ids
        # A vocabulary that finds a control token's text by itself (unigram models do): no piece of one character is it.
        return [
            i for char in text for i in self._encode_rest(self._plain, char) if i not in self._control_ids
        ]

    def _encode_rest(self, encoder: tokenizers.Tokenizer, text: str) -> list[int]:
        for anchor, anchor_ids in self._anchors:
            if encoder is self._plain:
                ids = encoder.encode(anchor + text, add_special_tokens=False).ids
            else:
                ids = self._encode_written(text, anchor)
            if ids[: len(anchor_ids)] == anchor_ids:
                return ids[len(anchor_ids) :]
        if encoder is self._plain:
            return encoder.encode(text, add_special_tokens=False).ids
        return self._encode_written(text, "")

    def _encode_written(self, text: str, before: str) -> list[int]:
        """Token ids of `before + text` in which only control tokens that are written out are control tokens.

        What the normalizer turns into one's name (full-width letters, say) is text.
        """
        whole = before + text
        encoding = self._inner.encode(whole, add_special_tokens=False)
        ids = encoding.ids
        if self._control_ids.isdisjoint(ids):
            return ids
        written: list[int] = []
        for i, (start, end) in zip(ids, encoding.offsets, strict=True):
            if i in self._control_ids and self._added[i] not in whole[start:end]:
                written += self._encode_literal(whole[start:end], first=False)
            else:
                written.append(i)
        return written

    def _find_anchors(self) -> list[tuple[str, list[int]]]:
        """Texts to put before a piece so that no space is put there; none where the tokenizer puts none.

        SentencePiece vocabularies write a space before the first word of whatever they are given. An anchor may
        merge with what follows; then the next one is tried.
        """
        alone = self._plain.encode("a", add_special_tokens=False).tokens
        if not alone or not alone[0].startswith(("▁", "Ġ")):
            return []
        anchors: list[tuple[str, list[int]]] = []
        for anchor in ("\n", "\x00", "\x01", ".", "。", "0", "a"):
            ids = self._plain.encode(anchor, add_special_tokens=False).ids
            probe = self._plain.encode(anchor + "a b", add_special_tokens=False)
            after = probe.tokens[len(ids) :]
            if ids and after and probe.ids[: len(ids)] == ids and not after[0].startswith(("▁", "Ġ")):
                anchors.append((anchor, ids))
        return anchors

    # ------------------------------------------------------------ tokens to text

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of whole token sequences; for tokens that arrive one by one see `Detokenizer`."""
        return self._inner.decode(list(ids), skip_special_tokens=skip_special)

    def _token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; empty for an id outside the vocabulary."""
        if (added := self._added.get(token_id)) is not None:
            # Runs of spaces are added tokens of some SentencePiece vocabularies, and written as such there.
            marked = self.kind == "sentencepiece" and token_id not in self.special_ids
            return (added.replace("▁", " ") if marked else added).encode()
        token = self._inner.id_to_token(token_id)
        if token is None:
            return b""
        if self.kind == "byte_level":
            return byte_level_bytes(token)
        if self.kind == "sentencepiece":
            return sentencepiece_bytes(token, self._has_byte_tokens)
        return self.decode([token_id]).encode()

    def token_text(self, token_id: int) -> str:
        """A token by itself; a part of a character shows as U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name in the vocabulary."""
        return self._inner.token_to_id(token)


def _match_as_written(inner: tokenizers.Tokenizer) -> None:
    """Control tokens are looked for in the text as it is, not in what a normalizer makes of it."""
    inner.add_special_tokens(
        [
            tokenizers.AddedToken(
                token.content,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                single_word=token.single_word,
                normalized=False,
                special=True,
            )
            for token in inner.get_added_tokens_decoder().values()
            if token.special and token.normalized
        ]
    )
