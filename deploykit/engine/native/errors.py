"""How this engine says what it can't run."""

from __future__ import annotations

from deploykit.errors import DeploykitError


class UnsupportedError(Exception):
    """Something in the checkpoint that the description or the library can't express; the text says what."""


def unsupported(architecture: str, reason: str) -> DeploykitError:
    return DeploykitError(
        "the native engine can't run this model",
        where=architecture,
        why=reason,
        fix="set engine.backend to pytorch, or use a model that docs/native.md lists",
    )
