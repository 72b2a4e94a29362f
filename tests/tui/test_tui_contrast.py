"""Text can be told from what it lies on: contrast as WCAG 2 defines it, in the themes and in stored pictures.

Text needs 4.5 : 1. What is only a hint, or lies under the cursor as well, needs 3 : 1, as do graphics.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.color import Color
from textual.theme import Theme

from mlx_align_tui.themes import THEMES
from tests.tui.snapshots import FOLDER

TEXT, HINT = 4.5, 3.0
TONES = ("foreground", "primary", "accent", "success", "warning", "error")
NAMED = ("quiet", "footer-key-foreground", "footer-description-foreground")
GROUNDS = ("background", "surface", "panel")
UNDER_CURSOR = {theme.variables["block-cursor-background"] for theme in THEMES.values()}
BEHIND = ("chat-weights",)
"""Pictures in which a dialog lies over a screen that is dimmed because it cannot be used meanwhile."""
STYLE = re.compile(r"\.terminal-(r\d+) \{ fill: (#[0-9a-f]{6})")
GROUND = re.compile(
    r'<rect fill="(#[0-9a-f]{6})" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
)
WORDS = re.compile(r'<text class="terminal-(r\d+)" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>')


def brightness(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    parts = [part / 255 for part in Color.parse(colour).rgb]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """From 1 to 21."""
    dark, light = sorted((brightness(one), brightness(other)))
    return (light + 0.05) / (dark + 0.05)


def written_on(svg: str) -> Iterator[tuple[str, str, str]]:
    """(text, its colour, what it lies on) of all words of a picture."""
    styles = dict(STYLE.findall(svg))
    grounds = [(colour, *map(float, box)) for colour, *box in GROUND.findall(svg)]
    for style, x, y, text in WORDS.findall(svg):
        across, down = float(x) + 1, float(y) - 5
        below = [
            colour
            for colour, left, top, width, height in grounds
            if left <= across < left + width and top <= down < top + height
        ]
        if below and any(char.isalnum() for char in html.unescape(text)):
            yield html.unescape(text), styles[style], below[-1]


def test_black_and_white() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES.values(), ids=list(THEMES))
def test_every_tone_can_be_read_on_every_ground(theme: Theme) -> None:
    named = {name: theme.variables[name] for name in NAMED}
    curves = {name: colour for name, colour in theme.variables.items() if name.startswith("curve-")}
    for ground in (str(getattr(theme, name)) for name in GROUNDS):
        for name, colour in {**{tone: str(getattr(theme, tone)) for tone in TONES}, **named}.items():
            assert contrast(colour, ground) >= TEXT, f"{name} on {ground}"
        for name, colour in curves.items():
            assert contrast(colour, ground) >= HINT, f"{name} on {ground}"
    cursor = theme.variables["block-cursor-background"]
    assert contrast(theme.variables["block-cursor-foreground"], cursor) >= TEXT


PICTURES = [
    path for path in sorted(FOLDER.glob("*[tk].svg")) if not any(word in path.stem for word in BEHIND)
]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_what_a_picture_says_can_be_read(path: Path) -> None:
    found = list(written_on(path.read_text(encoding="utf-8")))
    assert found
    for text, colour, ground in found:
        enough = HINT if ground in UNDER_CURSOR else TEXT
        assert contrast(colour, ground) >= enough, f"{text!r}: {colour} on {ground}"
