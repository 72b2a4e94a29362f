"""Values on the line between a candidate and its examiner: plain data, as JSON.

Only values that mean the same on both sides cross. Everything else stays where it is and is known to the
other side by a number, so no code ever crosses: there is no pickle here.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, BinaryIO

LONGEST = 4 * 1024 * 1024
"""Longest message in bytes."""

_SCALARS: dict[type, Callable[[Any], Any]] = {
    int: hex,  # JSON's own integers are limited in digits
    complex: lambda value: [value.real, value.imag],
    bytes: bytes.hex,
    Decimal: str,
    Fraction: lambda value: [hex(value.numerator), hex(value.denominator)],
    range: lambda value: [value.start, value.stop, value.step],
}
_CONTAINERS = (tuple, list, set, frozenset, deque)
_SCALARS_BACK: dict[str, Callable[[Any], Any]] = {
    "int": lambda plain: int(plain, 16),
    "complex": lambda plain: complex(*plain),
    "bytes": bytes.fromhex,
    "Decimal": Decimal,
    "Fraction": lambda plain: Fraction(int(plain[0], 16), int(plain[1], 16)),
    "range": lambda plain: range(*plain),
}
_CONTAINERS_BACK: dict[str, Callable[[list[Any]], Any]] = {kind.__name__: kind for kind in _CONTAINERS}


class WireError(Exception):
    """The other side is gone, or what it sent cannot be understood."""


def encode(value: Any, refer: Callable[[Any], Any]) -> Any:
    """A value as what JSON can say. `refer` is asked for a reference to whatever is no plain data."""
    if value is None or isinstance(value, bool | float | str):
        return value
    for kind, to_plain in _SCALARS.items():
        if isinstance(value, kind):
            return {kind.__name__: to_plain(value)}
    if isinstance(value, _CONTAINERS):
        name = next(kind.__name__ for kind in _CONTAINERS if isinstance(value, kind))
        return {name: [encode(item, refer) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, refer), encode(item, refer)] for key, item in value.items()]}
    return {"reference": refer(value)}


def decode(tree: Any, resolve: Callable[[Any], Any]) -> Any:
    """The value that `encode` was given; `resolve` finds what a reference stands for.

    Raises:
        WireError: no `encode` made this.
    """
    if not isinstance(tree, dict):
        return tree
    try:
        [(kind, plain)] = tree.items()
        if kind == "reference":
            return resolve(plain)
        if kind == "dict":
            return {decode(key, resolve): decode(item, resolve) for key, item in plain}
        if kind in _CONTAINERS_BACK:
            return _CONTAINERS_BACK[kind]([decode(item, resolve) for item in plain])
        return _SCALARS_BACK[kind](plain)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a value: {error}") from error


def send(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    """Write one message.

    Raises:
        WireError: nobody reads any more, or the message is too long.
    """
    line = json.dumps(message).encode() + b"\n"
    if len(line) > LONGEST:
        raise WireError("a value is too large")
    try:
        stream.write(line)
        stream.flush()
    except OSError as error:
        raise WireError("the other side is gone") from error


def receive(stream: BinaryIO) -> dict[str, Any]:
    """Read one message.

    Raises:
        WireError: the stream has ended, or holds something else.
    """
    line = stream.readline(LONGEST + 1)
    if not line.endswith(b"\n"):
        raise WireError("the other side is gone" if len(line) <= LONGEST else "a value is too large")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError("not a message") from error
    if not isinstance(message, dict):
        raise WireError("not a message")
    return message


def take_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for messages alone; what programs read, print and complain goes to /dev/null."""
    streams = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "r+b") as nowhere:
        for standard in range(3):
            os.dup2(nowhere.fileno(), standard)
    return streams
