"""Pictures of screens, as SVG text that is compared with what is stored beside the tests.

`UPDATE_SNAPSHOTS=1 pytest tests/tui` stores what is seen; look at the pictures before you commit them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from textual.app import App

FOLDER = Path(__file__).parent / "pictures"
SIZES = ((80, 24), (120, 35), (160, 45))
UPDATE = "UPDATE_SNAPSHOTS"


def picture(app: App[Any]) -> str:
    """The screen as SVG, without what differs from run to run."""
    svg = app.export_screenshot(title="mlx-align", simplify=True)
    svg = re.sub(r"terminal-\d+-", "terminal-", svg)
    return re.sub(r"[ \t]+\n", "\n", svg)


def words(app: App[Any]) -> list[str]:
    """The screen as lines of text."""
    return ["".join(segment.text for segment in line) for line in app.screen._compositor.render_strips()]


def check_picture(app: App[Any], name: str) -> None:
    """Compare the screen with the stored picture of this name, or store it where that is asked for.

    Raises:
        AssertionError: it differs, or there is none; what was seen then lies beside it as NAME.seen.svg.
    """
    stored, seen = FOLDER / f"{name}.svg", FOLDER / f"{name}.seen.svg"
    svg = picture(app)
    if os.environ.get(UPDATE):
        FOLDER.mkdir(exist_ok=True)
        stored.write_text(svg, encoding="utf-8")
    same = stored.is_file() and stored.read_text(encoding="utf-8") == svg
    if not same:
        FOLDER.mkdir(exist_ok=True)
        seen.write_text(svg, encoding="utf-8")
    assert same, f"{seen} is not {stored.name}; if it is right, run again with {UPDATE}=1"
    seen.unlink(missing_ok=True)
