"""How a run is shown: a live screen, plain lines, JSON lines, or nothing."""

from __future__ import annotations

import os
import sys
from enum import StrEnum

from mlx_align_cli.display.base import Display


class Kind(StrEnum):
    """The displays a person can ask for."""

    AUTO = "auto"
    RICH = "rich"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


def choose(kind: Kind) -> Display:
    """The display; "auto" is the live screen on a terminal that can show it, and plain lines elsewhere."""
    if kind is Kind.AUTO:
        capable = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        kind = Kind.RICH if capable else Kind.PLAIN
    match kind:
        case Kind.RICH:
            from mlx_align_cli.display.rich import RichDisplay

            return RichDisplay()
        case Kind.PLAIN:
            from mlx_align_cli.display.plain import PlainDisplay

            return PlainDisplay()
        case Kind.JSON:
            from mlx_align_cli.display.json import JsonDisplay

            return JsonDisplay()
        case _:
            return Display()


__all__ = ["Display", "Kind", "choose"]
