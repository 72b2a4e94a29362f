"""Pictures of screens: nothing is fetched for them, and what few fonts have is drawn."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from mlx_align_tui.app import AlignApp
from mlx_align_tui.picture import self_contained
from mlx_align_tui.settings import TuiSettings
from tests.tui.conftest import play

SVG = "{http://www.w3.org/2000/svg}"
CELL = 12.2


def pictured(text: str) -> ElementTree.Element:
    """Text in the upper left corner of a terminal, as a picture."""
    console = Console(width=24, record=True, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(text, markup=False, highlight=False)
    return ElementTree.fromstring(self_contained(console.export_svg(title="")))


def letters(picture: ElementTree.Element) -> list[tuple[str, float, float]]:
    """Each piece of text, with the cell where it begins and how many it takes."""
    texts = [text for text in picture.iter(f"{SVG}text") if (text.text or "").strip()]
    return [
        (text.text or "", float(text.attrib["x"]) / CELL, float(text.attrib["textLength"]) / CELL)
        for text in texts
    ]


def paths(picture: ElementTree.Element) -> list[tuple[str, str]]:
    """Each shape: the last of its classes, and what is drawn."""
    return [(path.attrib["class"].split()[-1], path.attrib["d"]) for path in picture.iter(f"{SVG}path")]


def test_letters_stay_letters_each_where_its_cell_is() -> None:
    found = letters(pictured("a < b ──  ✔ yes ● 日本"))
    assert [text.replace("\xa0", " ") for text, _, _ in found] == ["a < b", "✔", "yes", "●", "日本"]
    assert [begin for _, begin, _ in found] == pytest.approx([0, 10, 12, 16, 18], abs=0.01)
    assert [length for _, _, length in found] == pytest.approx([5, 1, 3, 1, 4], abs=0.01)


@pytest.mark.parametrize(
    ("sign", "shapes"),
    [
        ("──", [("thin", "M0 13.7h24.4")]),
        ("│", [("thin", "M6.1 1.5L6.1 13.7L6.1 25.9")]),
        ("┏", [("thick", "M6.1 25.9L6.1 13.7L12.2 13.7")]),
        ("├", [("thin", "M6.1 1.5L6.1 13.7L6.1 25.9M6.1 13.7L12.2 13.7")]),
        ("╭", [("thin", "M6.1 25.9V19.8Q6.1 13.7 12.2 13.7")]),
        ("⠁", [("dots", "M3.05 4.55h0")]),
        ("⢀", [("dots", "M9.15 22.85h0")]),
        ("██", [("terminal", "M0 1.5h24.65v24.65h-24.65z")]),
        ("▄", [("terminal", "M0 13.7h12.45v12.45h-12.45z")]),
        ("▌", [("terminal", "M0 1.5h6.35v24.65h-6.35z")]),
        ("⠀", []),
    ],
)
def test_frames_bars_and_dots_are_drawn(sign: str, shapes: list[tuple[str, str]]) -> None:
    picture = pictured(sign)
    assert [(re.sub(r"-\d+-r\d+", "", kind), path) for kind, path in paths(picture)] == shapes
    assert letters(picture) == []


@pytest.mark.parametrize("sign", ["╔", "░", "┄", "╱"])
def test_what_is_not_known_stays_a_letter(sign: str) -> None:
    assert [text for text, _, _ in letters(pictured(sign))] == [sign]


def test_a_screenshot_asks_for_nothing(tmp_path: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(tmp_path / "runs", settings=settings)
        async with app.run_test():
            picture = app.export_screenshot()
        ElementTree.fromstring(picture)
        assert re.findall(r"\w+://[^\"]*", picture) == ["http://www.w3.org/2000/svg"]
        assert "url(" not in picture

    play(story())
