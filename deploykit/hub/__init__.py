"""Where files come from: Hugging Face, ModelScope, a Python wheel, a local path; and the cache that keeps them."""

from deploykit.hub.fetch import Preview, fetch, locate, preview
from deploykit.hub.locks import hold
from deploykit.hub.types import (
    Fetched,
    FetchProgress,
    HfRef,
    ModelScopeRef,
    PathRef,
    PypiRef,
    Ref,
    Resolved,
)

__all__ = [
    "FetchProgress",
    "Fetched",
    "HfRef",
    "ModelScopeRef",
    "PathRef",
    "Preview",
    "PypiRef",
    "Ref",
    "Resolved",
    "fetch",
    "hold",
    "locate",
    "preview",
]
