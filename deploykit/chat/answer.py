"""A streamed answer as it adds up, and the figures under it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from deploykit.chat.client import Delta


@dataclass
class Answer:
    """What a streamed answer adds up to, with its timing (seconds by the client's clock)."""

    text: str = ""
    finish: str | None = None
    usage: dict[str, Any] | None = None
    model: str | None = None
    aborted: bool = False
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float | None = None
    chunks: int = 0

    def add(self, delta: Delta) -> None:
        now = time.perf_counter()
        if delta.text:
            self.text += delta.text
            self.first = self.first or now
            self.last = now
            self.chunks += 1
        self.finish = delta.finish or self.finish
        self.usage = delta.usage or self.usage
        self.model = delta.model or self.model

    @property
    def ttft(self) -> float | None:
        """Seconds to the first text."""
        return None if self.first is None else self.first - self.started

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens after the first, over the time from the first text to the last."""
        tokens = (self.usage or {}).get("completion_tokens")
        if not isinstance(tokens, int) or tokens < 2 or self.first is None or self.last is None:
            return None
        span = self.last - self.first
        return (tokens - 1) / span if span > 0 else None

    def stats(self) -> str:
        """`in 812 (cached 640) · out 213 · TTFT 84 ms · 61.3 tok/s · stop`."""
        usage = self.usage or {}
        parts: list[str] = []
        if isinstance(prompt := usage.get("prompt_tokens"), int):
            details = usage.get("prompt_tokens_details")
            cached = details.get("cached_tokens") if isinstance(details, dict) else None
            parts.append(f"in {prompt}" + (f" (cached {cached})" if cached else ""))
        if isinstance(out := usage.get("completion_tokens"), int):
            parts.append(f"out {out}")
        if (ttft := self.ttft) is not None:
            parts.append(f"TTFT {ttft * 1000:.0f} ms")
        if (rate := self.tokens_per_s) is not None:
            parts.append(f"{rate:.1f} tok/s")
        parts.append("aborted" if self.aborted else self.finish or "no finish reason")
        return " · ".join(parts)
