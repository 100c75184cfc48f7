"""Control tokens in a user's text stay text.

A message may say `<|im_end|>`. If the rendered prompt were tokenized as it stands, that would end the user's turn
and let the user speak for the system. So every such string in a message is exchanged for a placeholder before the
template runs, and the rendered prompt is cut there: the template's own parts are tokenized with control tokens, the
user's strings without.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple

_OPEN, _CLOSE = "\ue000", "\ue001"  # private use: they mean nothing, and no template looks for them


class Piece(NamedTuple):
    """A part of a rendered prompt; `literal` = a control token's name that came from a user: text."""

    text: str
    literal: bool = False


class Shield:
    """The placeholders of one request."""

    def __init__(self, pattern: re.Pattern[str] | None) -> None:
        self._pattern = pattern
        self._literals: list[str] = []
        self._nonce = "".join(
            str(secrets.randbelow(10)) for _ in range(12)
        )  # digits survive any filter of case

    def cover(self, text: str) -> str:
        """`text` with every control token's name exchanged for a placeholder."""
        if self._pattern is None:
            return text
        return self._pattern.sub(self._placeholder, text)

    def pieces(self, rendered: str) -> list[Piece]:
        """The rendered prompt cut at the placeholders, with the user's strings back in place."""
        if not self._literals:
            return [Piece(rendered)] if rendered else []
        pieces: list[Piece] = []
        mark = re.compile(f"{_OPEN}{self._nonce}:(\\d+){_CLOSE}")
        position = 0
        for match in mark.finditer(rendered):
            if match.start() > position:
                pieces.append(Piece(rendered[position : match.start()]))
            pieces.append(Piece(self._literals[int(match[1])], literal=True))
            position = match.end()
        if position < len(rendered):
            pieces.append(Piece(rendered[position:]))
        return pieces

    def _placeholder(self, match: re.Match[str]) -> str:
        self._literals.append(match[0])
        return f"{_OPEN}{self._nonce}:{len(self._literals) - 1}{_CLOSE}"


def special_pattern(special_tokens: Sequence[str]) -> re.Pattern[str] | None:
    """Matches any of the control tokens' names, the longest first; None where there are none."""
    names = sorted({token for token in special_tokens if token}, key=len, reverse=True)
    return re.compile("|".join(re.escape(name) for name in names)) if names else None
