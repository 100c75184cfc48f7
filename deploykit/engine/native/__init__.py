"""The native engine: deploykit's own C++ library behind the same seam. Importing this package loads no library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploykit.engine.native.runner import NativeRunner

__all__ = ["NativeRunner"]


def __getattr__(name: str) -> Any:
    if name == "NativeRunner":
        from deploykit.engine.native.runner import NativeRunner

        return NativeRunner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
