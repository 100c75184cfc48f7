"""How this engine says that it can't run a model."""

from __future__ import annotations

from deploykit.errors import DeploykitError


def unsupported(subject: str, why: str) -> DeploykitError:
    """The model needs something that is not implemented: refused, rather than wrong."""
    return DeploykitError(
        "the pytorch engine can't run this model",
        where=subject,
        why=f"{subject} {why}",
        fix="use a model that docs/engines.md lists, or another engine",
    )


def bad_checkpoint(path: str, why: str) -> DeploykitError:
    """The weights don't fit the model that their config describes."""
    return DeploykitError(
        "the checkpoint's weights don't fit its config",
        where=path,
        why=why,
        fix="fetch the checkpoint again, or correct its config.json",
    )
