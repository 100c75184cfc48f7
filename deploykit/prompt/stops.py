"""Stop strings: text before the first one goes out, and only what may still become one is held back."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Watches one text for stop strings of any length, however the text is cut into pieces.

    Where several match, the one that is complete first wins (the longest of those that end together), so the
    result doesn't depend on how the text arrives.
    """

    __slots__ = ("_held", "_stops", "matched")

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise ValueError("a stop string may not be empty")
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Add text; what may go out now. After a match (`matched` is set) nothing more comes out."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        buffer = self._held + text
        best: tuple[int, int, str] | None = None  # (end, start, stop)
        for stop in self._stops:
            start = buffer.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
                best = (start + len(stop), start, stop)
        if best is not None:
            self._held = ""
            self.matched = best[2]
            return buffer[: best[1]]
        keep = max(_overlap(buffer, stop) for stop in self._stops)
        cut = len(buffer) - keep
        self._held = buffer[cut:]
        return buffer[:cut]

    def flush(self) -> str:
        """The text is over: what was held back is text after all."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    start = max(0, len(text) - len(stop) + 1)
    while (start := text.find(stop[0], start)) >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0
