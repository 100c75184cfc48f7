"""The pytorch engine: transformers' own model code over paged attention. Importing this package loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploykit.engine.pytorch.runner import PytorchRunner

__all__ = ["PytorchRunner"]


def __getattr__(name: str) -> Any:
    if name == "PytorchRunner":
        from deploykit.engine.pytorch.runner import PytorchRunner

        return PytorchRunner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
