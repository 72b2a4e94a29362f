"""Amounts as a person reads them."""

from __future__ import annotations


def size(count: int) -> str:
    """Bytes in a readable unit."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB" if value < 100 else f"{value:.0f} GB"
