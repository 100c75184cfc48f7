"""Control tokens in a user's text stay text.

A message may say `<|im_end|>`. If the rendered prompt were tokenized as it stands, that would end the user's turn
and let the user speak for the system. So every such string in a message is exchanged for a placeholder before the
template runs, and the rendered prompt is cut there: the template's own parts are tokenized with control tokens, the
user's strings without. So are the halves of a name at the ends of a string, which a template might put together.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
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

    def _placeholder(self, match: re.Match[str]) -> str:
        self._literals.append(match[0])
        return f"{_OPEN}{self._nonce}:{len(self._literals) - 1}{_CLOSE}"

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


def special_pattern(special_tokens: Sequence[str]) -> re.Pattern[str] | None:
    """Matches any of the control tokens' names, the longest first, and at least two characters of one that a text
    ends or begins with; None where there are none."""
    names = sorted({token for token in special_tokens if token}, key=len, reverse=True)
    if not names:
        return None
    ends = {name[:i] for name in names for i in range(2, len(name))}
    begins = {name[i:] for name in names for i in range(1, len(name) - 1)}
    parts = ["|".join(map(re.escape, names))]
    parts += [rf"(?:{_one_of(ends)})\Z"] if ends else []
    parts += [rf"\A(?:{_one_of(begins)})"] if begins else []
    return re.compile("|".join(parts))


def _one_of(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
