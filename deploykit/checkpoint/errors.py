"""The fault of a checkpoint: which file, which tensor, and why."""

from __future__ import annotations

from pathlib import Path

from deploykit.errors import ConfigError


class CheckpointError(ConfigError):
    """A model file is damaged, inconsistent or of a kind that isn't supported (exit code 2)."""

    def __init__(
        self,
        what: str,
        *,
        file: Path | str | None = None,
        tensor: str | None = None,
        why: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.file = None if file is None else str(file)
        self.tensor = tensor
        place = [] if file is None else [str(file)]
        if tensor is not None:
            place.append(f"tensor {printable(tensor)}")
        super().__init__(what, where=", ".join(place) or None, why=why, fix=fix)


def printable(text: str, limit: int = 120) -> str:
    """Text from an untrusted file, made safe to show in a terminal and kept short."""
    clean = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[: limit + 1])
    return clean[:limit] + "…" if len(clean) > limit else clean
