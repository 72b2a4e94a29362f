"""The README's pictures can be shown anywhere: they ask for nothing, and tell nothing of a machine."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.readme import README

PICTURES = re.findall(r'!\[[^\]]*\]\(([^)]+)\)|<img [^>]*src="([^"]+)"', README.read_text(encoding="utf-8"))
PATHS = sorted({Path(one or other) for one, other in PICTURES})
LARGEST = 300_000
NAMESPACE = "{http://www.w3.org/2000/svg}"
ELEMENTS = {"svg", "style", "rect", "text", "g", "circle", "path"}
"""What such a picture is made of; neither scripts nor images nor foreign objects."""


def test_the_terminal_ui_is_shown() -> None:
    assert {path.stem for path in PATHS} >= {"monitor", "new-run", "data", "chat"}


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_picture_needs_nothing_from_elsewhere(path: Path) -> None:
    text = (README.parent / path).read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    elements = list(ElementTree.fromstring(text).iter())
    assert {element.tag.removeprefix(NAMESPACE) for element in elements} <= ELEMENTS
    for element in elements:
        for name, value in element.attrib.items():
            assert not name.startswith("on"), name
            assert "href" not in name, name
            assert "://" not in value, value
        for word in ("url(", "@import", "://"):
            assert word not in (element.text or ""), word


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_picture_tells_nothing_of_the_machine(path: Path) -> None:
    root = ElementTree.fromstring((README.parent / path).read_text(encoding="utf-8"))
    words = "\n".join(element.text or "" for element in root.iter(f"{NAMESPACE}text")).replace("\xa0", " ")
    assert "mlx-align" in words
    assert re.findall(r"(?<!\S)/\w.*", words) == [], "a path that does not begin where one is"
    assert platform.node().lower() not in words.lower().split()
