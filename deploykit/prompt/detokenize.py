"""Tokens to text as they arrive: no character is split, no space is lost, and each token costs the same."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from deploykit.prompt.tokenizer import Tokenizer

_MAX_WINDOW = 24  # tokens; a character has at most four bytes, so more than that never completes


class Detokenizer:
    """The text of one growing sequence, as the continuation of its prompt (a leading space stays).

    Where a token's bytes are known by themselves (byte-level and SentencePiece vocabularies) they go through an
    incremental UTF-8 decoder. For any other decoder, a short window of tokens is decoded with and without the new
    one. Control tokens give no text unless `skip_special` is off.
    """

    __slots__ = ("_decoder", "_prefix", "_read", "_skip", "_tokenizer", "_window")

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special
        self._decoder = (
            codecs.getincrementaldecoder("utf-8")(errors="replace") if tokenizer.kind != "other" else None
        )
        self._window: list[int] = []
        self._prefix = 0  # start of the context that the window's text is decoded with
        self._read = 0  # tokens before this one have been given out

    def push(self, token: int) -> str:
        """Add one token; the text that is whole now."""
        if self._skip and token in self._tokenizer.special_ids:
            return ""
        if self._decoder is not None:
            return self._decoder.decode(self._tokenizer.token_bytes(token))
        return self._push_window(token)

    def push_all(self, tokens: Iterable[int]) -> str:
        return "".join(self.push(token) for token in tokens)

    def finish(self) -> str:
        """The sequence is over: an unfinished character becomes U+FFFD."""
        if self._decoder is not None:
            return self._decoder.decode(b"", final=True)
        text = self._new_text()
        self._window, self._prefix, self._read = [], 0, 0
        return text

    def _push_window(self, token: int) -> str:
        self._window.append(token)
        text = self._new_text()
        if (not text or text.endswith("\ufffd")) and len(self._window) - self._read < _MAX_WINDOW:
            return ""
        del self._window[: self._read]  # the tokens just given out are the next one's context
        self._prefix, self._read = 0, len(self._window)
        return text

    def _new_text(self) -> str:
        context = self._tokenizer.decode(self._window[: self._read])
        whole = self._tokenizer.decode(self._window)
        return whole[len(context) :]
