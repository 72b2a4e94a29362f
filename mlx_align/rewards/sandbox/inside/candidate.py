"""The candidate's side: a stranger's solution, asked by an examiner.

Nothing in this process is believed. It is never told what a right answer would be, so the only way to be
right is to compute it; what it does to itself (patches, exits, forged messages) only spoils its own answers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from . import wire
from .program import execute

OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "contains": operator.contains,
    "isinstance": isinstance,
    "bool": bool,
    "len": len,
    "iter": iter,
    "next": next,
    "str": str,
    "repr": repr,
}
"""What an examiner may ask to be done with the candidate's objects."""


def main(source: str) -> None:
    """Load the program, then do what the examiner asks on stdin and answer on stdout, until it hangs up."""
    requests, replies = wire.take_standard_streams()
    wire.send(replies, {})  # here, and about to begin
    try:
        namespace: dict[str, Any] | BaseException = execute(source, "solution")
    except BaseException as error:  # SystemExit too: the program is over, its examination is not
        namespace = error
    kept: list[Any] = []
    while True:
        request = wire.receive(requests)
        try:
            value = _perform(request, namespace, kept)
            reply = {"value": wire.encode(value, lambda other: _keep(kept, other))}
        except BaseException as error:
            reply = _complaint(error)
        wire.send(replies, reply)


def _perform(request: dict[str, Any], namespace: dict[str, Any] | BaseException, kept: list[Any]) -> Any:
    if isinstance(namespace, BaseException):
        raise namespace

    def resolve(reference: Any) -> Any:
        if isinstance(reference, int):
            return kept[reference]
        if reference not in namespace:
            raise NameError(f"name '{reference}' is not defined")
        return namespace[reference]

    args = wire.decode(request["args"], resolve)
    kwargs = wire.decode(request["kwargs"], resolve)
    return OPERATIONS[request["do"]](*args, **kwargs)


def _keep(kept: list[Any], value: Any) -> int:
    """The number by which the examiner will know a value; the same for the same object."""
    for number, other in enumerate(kept):
        if other is value:
            return number
    kept.append(value)
    return len(kept) - 1


def _complaint(error: BaseException) -> dict[str, Any]:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    try:
        message = str(error)[:200]
    except Exception:
        message = ""
    return {"error": kinds, "message": message}
