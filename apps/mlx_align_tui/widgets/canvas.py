"""What a plot is drawn on."""

from __future__ import annotations

from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual_hires_canvas import Canvas

BRAILLE = frozenset(chr(code) for code in range(0x2800, 0x2900))
"""The signs for eight dots. Each dot is one bit of the code: signs are laid over each other by `or`."""


class QuickCanvas(Canvas):
    """A canvas that looks up its own style once for all lines that are drawn together: each look is dear."""

    _style: Style | None = None

    @property
    def rich_style(self) -> Style:
        """The style that all others are laid over."""
        return super().rich_style if self._style is None else self._style

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines of a region."""
        self._style = super().rich_style
        try:
            return super().render_lines(crop)
        finally:
            self._style = None


class ThinCanvas(QuickCanvas):
    """A canvas whose frames are thin, and where a curve that crosses another takes none of its dots away."""

    def set_pixel(self, x: int, y: int, char: str = "█", style: str = "white") -> None:
        """Draw into one cell: Braille dots join those that are there, in the later one's colour."""
        if char in BRAILLE and self._canvas_region.contains(x, y) and (old := self._buffer[y][x]) in BRAILLE:
            char = chr(ord(char) | ord(old))
        super().set_pixel(x, y, char, style)

    def draw_rectangle_box(
        self, x0: int, y0: int, x1: int, y1: int, thickness: int = 1, style: str = "white"
    ) -> None:
        """Draw a frame, thin however thick it was asked for."""
        super().draw_rectangle_box(x0, y0, x1, y1, thickness=1, style=style)
