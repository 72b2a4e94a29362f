"""HTML out of plain text: whatever is not markup already is escaped on its way in."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

VOID = ("meta",)
"""Elements without an end."""


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: str) -> Markup:
    """An element.

    Args:
        name: its name.
        children: what is in it; a text is escaped unless it is `Markup`.
        attributes: its attributes; a trailing "_" is dropped, others become "-", as in `http_equiv`.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items()
    )
    inside = "".join(text(child) for child in children)
    return Markup(f"<{name}{written}>" if name in VOID else f"<{name}{written}>{inside}</{name}>")


def text(value: object) -> Markup:
    """A value as HTML: markup as it is, anything else as the text that it is."""
    return value if isinstance(value, Markup) else Markup(escape(_written(str(value))))


def _written(value: str) -> str:
    """The same text without what no page can hold: control characters, and halves of characters."""
    return "".join(
        letter if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cs") else "\ufffd"
        for letter in value
    )


def joined(parts: Iterable[Markup]) -> Markup:
    """Several elements, one after the other."""
    return Markup("\n".join(parts))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], kind: str = "") -> Markup:
    """A table; without a head where `head` is empty.

    Args:
        head: the columns' names.
        rows: their cells, as many as there are columns.
        kind: the element's class; "numbers" sets all columns but the first to the right.
    """
    body = joined(tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    top = tag("thead", tag("tr", *(tag("th", cell) for cell in head))) if head else Markup("")
    return tag("div", tag("table", top, tag("tbody", body), class_=kind), class_="wide")


def section(title: str, *children: object) -> Markup:
    """A part of the page under its heading."""
    return tag("section", tag("h2", title), *children)
