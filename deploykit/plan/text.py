"""Bytes and counts as people read them."""

from __future__ import annotations


def format_bytes(count: int) -> str:
    """1536 -> "1.5 KiB"; binary units, three digits at most before the point."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_count(count: int) -> str:
    """372827 -> "372,827"."""
    return f"{count:,}"
