"""A screen as an SVG picture that asks the network for nothing, and looks the same whatever fonts there are.

Rich writes every sign as text, in a font that is fetched from elsewhere. Frames, bars, and the Braille dots
of which curves are made, stand in few other fonts and are seldom as wide as letters: here they are shapes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from html import escape, unescape

from rich.cells import cell_len

WIDTH, HEIGHT, ABOVE = 12.2, 24.4, 18.5
"""A cell of Rich's pictures, and how far its top lies above the line on which letters stand."""
FONTS = 'ui-monospace, SFMono-Regular, Menlo, "Cascadia Mono", "DejaVu Sans Mono", Consolas, monospace'
STYLES = """
    .dots, .thin, .thick { fill: none; stroke: currentColor; }
    .dots { stroke-width: 4; stroke-linecap: round; }
    .thin { stroke-width: 1.5; }
    .thick { stroke-width: 3; }
    """
ELSEWHERE = re.compile(r"@font-face \{.*?\}\s*|<!-- Generated.*?-->\s*", re.DOTALL)
CLIPS = re.compile(r'<defs>.*?</defs>\s*| clip-path="[^"]*"', re.DOTALL)
"""They would cut the lowest line, and keep nothing out."""
TEXT = re.compile(r'<text class="([\w-]+)" x="([\d.]+)" y="([\d.]+)" textLength[^>]*>([^<]*)</text>')
PIECES = re.compile(r"(?P<sign>[─-▟⠀-⣿])(?P=sign)*|[←-⯿]|[^←-⯿]+")
"""Equal signs that may be drawn; other symbols one by one, because fonts differ in their width; all else."""
LINES = re.compile(r"BOX DRAWINGS (LIGHT|HEAVY) (ARC )?((?:LEFT|RIGHT|UP|DOWN|VERTICAL|HORIZONTAL|AND|\s)+)")
ARMS = {"LEFT": (-1, 0), "RIGHT": (1, 0), "UP": (0, -1), "DOWN": (0, 1)}
DOTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))
"""Column and row of the dot that each bit of a Braille sign stands for."""


def self_contained(svg: str) -> str:
    """Rich's picture without its fonts, and with shapes for the signs that few fonts have."""
    svg = CLIPS.sub("", ELSEWHERE.sub("", svg))
    svg = svg.replace("Fira Code, monospace", FONTS).replace("font-family: arial", "font-family: sans-serif")
    svg = re.sub(r"fill: (#\w+)", r"fill: \1; color: \1", svg).replace("</style>", f"{STYLES}</style>")
    return TEXT.sub(_parts, svg)


def _parts(text: re.Match[str]) -> str:
    """A piece of text as letters and shapes, each where its cell is."""
    style, x, y = text[1], float(text[2]), float(text[3])
    parts = []
    for found in PIECES.finditer(unescape(text[4])):
        piece = found[0]
        drawn = _drawn(found["sign"], len(piece), x, y - ABOVE) if found["sign"] else None
        if drawn is not None:
            parts += [f'<path class="{style}{drawn[0]}" d="{drawn[1]}"/>'] if drawn[1] else []
        elif words := piece.strip("\xa0"):
            left = x + WIDTH * (len(piece) - len(piece.lstrip("\xa0")))
            place = f'x="{left:g}" y="{y:g}" textLength="{WIDTH * cell_len(words):g}"'
            parts.append(f'<text class="{style}" {place}>{escape(words)}</text>'.replace("\xa0", "&#160;"))
        x += WIDTH * cell_len(piece)
    return "".join(parts)


def _drawn(sign: str, count: int, x: float, y: float) -> tuple[str, str] | None:
    """Class and path of so many equal signs from a place on; None for a sign that stays a letter."""
    code = ord(sign)
    if code >= 0x2800:
        return " dots", "".join(_dots(code - 0x2800, x + n * WIDTH, y) for n in range(count))
    if code >= 0x2580:
        path = _bars(code, count, x, y)
        return None if path is None else ("", path)
    return _lines(sign, count, x, y)


def _dots(bits: int, x: float, y: float) -> str:
    """The dots of a Braille sign: lines without length, whose ends are round."""
    places = [(column, row) for bit, (column, row) in enumerate(DOTS) if bits >> bit & 1]
    return "".join(
        f"M{x + WIDTH * (column + 0.5) / 2:g} {y + HEIGHT * (row + 0.5) / 4:g}h0" for column, row in places
    )


def _bars(code: int, count: int, x: float, y: float) -> str | None:
    """Parts of a cell that are filled from one side."""
    eighths = _eighths(code)
    if eighths is None:
        return None
    left, top, right, bottom = eighths
    whole = right - left == 8
    width = WIDTH * (count if whole else (right - left) / 8) + 0.25  # no seam to the next cell
    height = HEIGHT * (bottom - top) / 8 + 0.25
    starts = [x + WIDTH * left / 8 + n * WIDTH for n in range(1 if whole else count)]
    return "".join(
        f"M{start:g} {y + HEIGHT * top / 8:g}h{width:g}v{height:g}h{-width:g}z" for start in starts
    )


def _eighths(code: int) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what is filled, in eighths of a cell."""
    if 0x2581 <= code <= 0x2588:
        return 0, 0x2588 - code, 8, 8
    if 0x2589 <= code <= 0x258F:
        return 0, 0, 0x2590 - code, 8
    return {0x2580: (0, 0, 8, 4), 0x2590: (4, 0, 8, 8), 0x2594: (0, 0, 8, 1), 0x2595: (7, 0, 8, 8)}.get(code)


def _lines(sign: str, count: int, x: float, y: float) -> tuple[str, str] | None:
    """The parts of frames whose arms are equally thick."""
    found = LINES.fullmatch(unicodedata.name(sign, ""))
    if found is None:
        return None
    style = " thin" if found[1] == "LIGHT" else " thick"
    words = found[3].replace("VERTICAL", "UP AND DOWN").replace("HORIZONTAL", "LEFT AND RIGHT").split(" AND ")
    if words == ["LEFT", "RIGHT"]:
        return style, f"M{x:g} {y + HEIGHT / 2:g}h{count * WIDTH:g}"
    arms = [ARMS[word] for word in words]
    centres = [(x + (n + 0.5) * WIDTH, y + HEIGHT / 2) for n in range(count)]
    return style, "".join((_arc if found[2] else _arms)(arms, *centre) for centre in centres)


def _arms(arms: Sequence[tuple[int, int]], x: float, y: float) -> str:
    """Lines from the middle of a cell to its edges; the first two are one line."""
    ends = [f"{x + dx * WIDTH / 2:g} {y + dy * HEIGHT / 2:g}" for dx, dy in arms]
    first = f"M{ends[0]}L{x:g} {y:g}" + "".join(f"L{end}" for end in ends[1:2])
    return first + "".join(f"M{x:g} {y:g}L{end}" for end in ends[2:])


def _arc(arms: Sequence[tuple[int, int]], x: float, y: float) -> str:
    """A round corner, from the upper or lower edge of a cell to its left or right one."""
    (_, upright), (aside, _) = arms
    start = f"M{x:g} {y + upright * HEIGHT / 2:g}V{y + upright * WIDTH / 2:g}"
    return f"{start}Q{x:g} {y:g} {x + aside * WIDTH / 2:g} {y:g}"
