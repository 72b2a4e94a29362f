"""Whether a run fits in memory, in one word with its sign, readable without colour."""

from __future__ import annotations

from mlx_align_cli.display.text import size

SIGNS = {
    "fits": ("●", "$success"),
    "tight": ("◐", "$warning"),
    "will not fit": ("○", "$error"),
    "unknown": ("?", "$quiet"),
}
"""Verdict -> its sign and its colour, as a variable of the theme."""


def fit_badge(verdict: str, total: int, available: int) -> str:
    """A plan's verdict as Textual markup, with its bytes.

    Args:
        verdict: one of SIGNS.
        total: bytes needed.
        available: bytes there are; 0: unknown.
    """
    sign, colour = SIGNS.get(verdict, SIGNS["unknown"])
    word = "memory unknown" if verdict == "unknown" else verdict
    of = f" of {size(available)}" if available else ""
    return f"[{colour}]{sign} {word}[/] [$quiet]{size(total)}{of}[/]"
