"""What pydantic says of a value, in words for a person who typed it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": 'a list, such as ["a", "b"],',
    "dict": "a table",
    "model": "a table",
}
"""How the name of an error begins -> what it wanted."""
EMPTY = ("string_too_short", "too_short")
OWN = "Value error, "
"""How pydantic introduces what a check of ours said."""


def plain(errors: Sequence[Mapping[str, Any]]) -> str:
    """What must be true of a value, and what it is: "must be greater than 0 and is -1".

    Args:
        errors: of one value; several where it may be of several types.
    """
    first = errors[0]
    if first["type"] == "missing":
        return "must be set"
    if first["type"] == "extra_forbidden":
        return "there is no such setting"
    if first["msg"].startswith(OWN):
        return str(first["msg"].removeprefix(OWN))
    wanted = " or ".join(dict.fromkeys(_wanted(error) for error in errors))
    value = first["input"]
    if first["type"] in EMPTY:
        return "must not be empty"
    if value is None:
        return f"must be {wanted} and is unset"
    if isinstance(value, str | int | float):
        return f"must be {wanted} and is {json.dumps(value, ensure_ascii=False)}"
    return f"must be {wanted.rstrip(',')}"


def _wanted(error: Mapping[str, Any]) -> str:
    kind, _, rest = str(error["type"]).partition("_")
    if error["type"] == "finite_number":
        return "a finite number"
    if kind in KINDS and rest in ("type", "parsing", "from_float", "parsing_size"):
        return KINDS[kind]
    found = re.fullmatch(r"Input should be (.*)", str(error["msg"]))
    return found[1] if found else str(error["msg"])
