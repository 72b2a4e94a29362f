"""Pictures of screens, as SVG text that is compared with what is stored beside the tests.

`UPDATE_SNAPSHOTS=1 pytest tests/tui` stores what is seen; look at the pictures before you commit them.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any

from textual.app import App

FOLDER = Path(__file__).parent / "pictures"
SIZES = ((80, 24), (120, 35), (160, 45))
UPDATE = "UPDATE_SNAPSHOTS"
PATIENCE, INTERVAL = 10.0, 0.05
"""Seconds until a screen must look as it should, and between two looks."""


def picture(app: App[Any]) -> str:
    """The screen as SVG, without what differs from run to run."""
    svg = app.export_screenshot(title="mlx-align", simplify=True)
    svg = re.sub(r"terminal-\d+-", "terminal-", svg)
    return re.sub(r"[ \t]+\n", "\n", svg)


def words(app: App[Any]) -> list[str]:
    """The screen as lines of text."""
    return ["".join(segment.text for segment in line) for line in app.screen._compositor.render_strips()]


def seen(app: App[Any]) -> str:
    """The screen as one text."""
    return "\n".join(words(app))


def in_one_line(app: App[Any]) -> str:
    """The screen as words with a space between them, wherever its lines are broken."""
    return " ".join(seen(app).split())


def braille(app: App[Any]) -> int:
    """How many cells show a part of a curve."""
    return sum(0x2800 < ord(char) <= 0x28FF for char in seen(app))


def footer_fits(app: App[Any]) -> bool:
    """Whether every key of the last line is on the screen."""
    return all(key.region.right <= app.size.width for key in app.screen.query("FooterKey"))


async def check_picture(app: App[Any], name: str) -> None:
    """Compare the screen with the stored picture of this name, or store it where that is asked for.

    What is drawn a moment later, such as the line of keys, is waited for until the screen is the picture.

    Raises:
        AssertionError: it does not, or there is none; what was seen then lies beside it as NAME.seen.svg.
    """
    stored, seen = FOLDER / f"{name}.svg", FOLDER / f"{name}.seen.svg"
    if os.environ.get(UPDATE):
        FOLDER.mkdir(exist_ok=True)
        stored.write_text(await settled(app), encoding="utf-8")
    wanted = stored.read_text(encoding="utf-8") if stored.is_file() else ""
    end = time.monotonic() + PATIENCE
    while picture(app) != wanted:
        if time.monotonic() > end:
            FOLDER.mkdir(exist_ok=True)
            seen.write_text(picture(app), encoding="utf-8")
            raise AssertionError(f"{seen} is not {stored.name}; if it is right, run again with {UPDATE}=1")
        await asyncio.sleep(INTERVAL)
    seen.unlink(missing_ok=True)


async def settled(app: App[Any]) -> str:
    """The screen once it has stopped to change."""
    before, now = "", picture(app)
    while before != now:
        await asyncio.sleep(10 * INTERVAL)
        before, now = now, picture(app)
    return now
