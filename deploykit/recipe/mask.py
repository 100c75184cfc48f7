"""Credentials in a recipe's text, which is shown to people and kept in logs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .diagnostics import Place

# In a line that couldn't be parsed. `{env: NAME}` and `{file: PATH}` are no secrets, and neither is `max_tokens`.
_SECRET = re.compile(
    r"(?i)(\b(?:api[_-]?keys?|password|passwd|secret|token)[\"']?\s*[:=]\s*+[\[{\s]*+)((?!env\b|file\b|#|\]).+)"
)


class Mask:
    """Lines of documents with stars in place of what may be a credential, as `secrets` has it."""

    def __init__(self, secrets: Sequence[Place]) -> None:
        self._secrets = secrets
        self._known: dict[tuple[str, int | None, str], str] = {}

    def line(self, file: str, number: int | None, text: str) -> str:
        """The line `number` of `file` (None: of a `--set`), as long as before."""
        key = (file, number, text)
        if key not in self._known:
            self._known[key] = self._masked(*key)
        return self._known[key]

    def _masked(self, file: str, number: int | None, text: str) -> str:
        shown = _SECRET.sub(lambda match: match[1] + "*" * len(match[2]), text)
        for place in self._secrets:
            span, source = place.value, place.source
            same = source.name == file and span.line == (number or 1)
            if same and (source.is_file or source.lines == (text,)):
                end = span.col - 1 + span.length
                shown = shown[: span.col - 1] + "*" * len(shown[span.col - 1 : end]) + shown[end:]
        return shown
