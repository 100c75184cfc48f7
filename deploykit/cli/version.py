"""`deploykit version`."""

from __future__ import annotations

from deploykit import __version__


def version() -> None:
    """Print the version of deploykit."""
    print(f"deploykit {__version__}")
