"""Model output made safe for a terminal: a model may not move the cursor, set a title, fill the clipboard."""

from __future__ import annotations

import enum
import re

MAX_SEQUENCE = 4096  # characters of one escape sequence that are swallowed before it counts as broken

_PLAIN = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # reorder what a person reads


class _State(enum.Enum):
    TEXT = 0
    ESCAPE = 1  # after ESC, until the sequence's kind is known
    CSI = 2  # control sequence: parameters, then one final byte
    STRING = 3  # OSC, DCS, SOS, PM, APC: until BEL, ST or the line's end


class TerminalSanitizer:
    """Strips escape sequences and control characters from a stream of text; sequences may be split anywhere.

    Kept: everything printable, newline and tab. Whatever the state, no ESC, no C0 or C1 control, no
    bidirectional override and no lone surrogate ever comes out. A string sequence ends at its terminator or
    at the end of its line, so that a broken one can't hide the rest of an answer.
    """

    def __init__(self) -> None:
        self._state = _State.TEXT
        self._length = 0

    def feed(self, text: str) -> str:
        """The part of `text` that may be printed."""
        out: list[str] = []
        at = 0
        while at < len(text):
            if self._state is _State.TEXT and (match := _PLAIN.match(text, at)):
                out.append(match[0])
                at = match.end()
                continue
            out.append(self._step(text[at]))
            at += 1
        return "".join(out)

    def _step(self, char: str) -> str:
        if char in "\x1b\x90\x98\x9b\x9d\x9e\x9f":
            return self._open(char)
        if self._state is _State.TEXT:
            return _shown(char)
        self._length += 1
        if char in "\x18\x1a" or self._length > MAX_SEQUENCE:  # CAN and SUB cancel a sequence
            self._state = _State.TEXT
            return "" if char in "\x18\x1a" else _shown(char)
        if char == "\n":
            self._state = _State.TEXT
            return char
        if self._state is _State.ESCAPE:
            return self._escape(char)
        return self._csi(char) if self._state is _State.CSI else self._string(char)

    def _open(self, char: str) -> str:
        """An introducer starts a new sequence wherever it stands."""
        self._length = 0
        self._state = {"\x1b": _State.ESCAPE, "\x9b": _State.CSI}.get(char, _State.STRING)
        return ""

    def _escape(self, char: str) -> str:
        if char == "[":
            self._state = _State.CSI
        elif char in "]PX^_":
            self._state = _State.STRING
        elif not " " <= char <= "/":  # intermediates go on; anything else was the final byte
            return self._end(char)
        return ""

    def _csi(self, char: str) -> str:
        return "" if " " <= char <= "?" else self._end(char)

    def _end(self, char: str) -> str:
        """A final byte belongs to its sequence; what can't be one broke the sequence off and is text."""
        self._state = _State.TEXT
        return "" if " " <= char <= "~" else _shown(char)

    def _string(self, char: str) -> str:
        if char in "\x07\x9c":
            self._state = _State.TEXT
        return ""


def _shown(char: str) -> str:
    if char in "\n\t":
        return char
    if "\ud800" <= char <= "\udfff":
        return "\ufffd"
    return "" if char < " " or "\x7f" <= char <= "\x9f" or char in _BIDI else char


def sanitize(text: str) -> str:
    """`TerminalSanitizer` for a text that is whole."""
    return TerminalSanitizer().feed(text)
