"""Tokens as coloured text: what is scored, and where one token ends and the next begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from mlx_align_cli.display.text import clean

NEWLINE = "↵"


def tokens_text(
    pieces: Sequence[tuple[str, int]], colours: Mapping[str, str], *, front: str, bounds: bool
) -> Text:
    """The text that the model reads.

    Args:
        pieces: (text, number of tokens) in their order.
        colours: the theme's variables.
        front: the variable of their colour: that of their side if they are learnt from, else "quiet".
        bounds: whether every other token is shaded.
    """
    colour = colours.get(front, "")
    text = Text()
    for number, (piece, _) in enumerate(pieces):
        back = colours.get("panel" if number % 2 else "surface", "") if bounds else ""
        style = f"{colour} on {back}" if back else colour
        for part in clean(piece).splitlines(keepends=True):
            text.append(part.removesuffix("\n"), style=style)
            if part.endswith("\n"):
                text.append(NEWLINE, style=colours.get("border", "")).append("\n")
    return text
