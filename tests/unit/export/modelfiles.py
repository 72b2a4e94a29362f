"""A strict reader of Modelfiles, by the grammar that Ollama's own parser follows."""

from __future__ import annotations

import re

COMMANDS = ("from", "adapter", "template", "system", "parameter", "license", "message")


def unquoted(text: str) -> str | None:
    """What stands in quotes, or the bare text; None where a quote is still open."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text


def read_modelfile(content: str) -> list[tuple[str, str]]:
    """(command, value) in their order; "parameter NAME" is a parameter's command.

    A value goes on over lines until its quotes are closed at a line's end. Characters that are not printable
    are lost, as Ollama loses them.
    """
    assert content.endswith("\n")
    found: list[tuple[str, str]] = []
    command, value = "", ""
    for line in content.removesuffix("\n").split("\n"):
        if not command:
            if not line.strip() or line.startswith("#"):
                continue
            match = re.fullmatch(r"(parameter [a-z_]+|[a-z]+)[ \t]+(.*)", line, re.IGNORECASE)
            assert match, f"not a command: {line!r}"
            command, value = match[1].lower(), ""
            assert command.split()[0] in COMMANDS, f"not a command: {line!r}"
            line = match[2]
        value += "".join(letter for letter in line if letter.isprintable() or letter == "\t")
        text = unquoted(value.strip())
        if text is None:
            value += "\n"
        else:
            found.append((command, text))
            command = ""
    assert not command, f"the value of {command} does not end"
    assert [name for name, _ in found].count("from") == 1
    return found
