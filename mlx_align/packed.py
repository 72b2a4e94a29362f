"""A run's updates as columns of numbers: a tenth of the memory that they take as objects."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, compress
from operator import attrgetter
from typing import Any, overload

from mlx_align.events import Number, Step

KINDS: dict[object, str] = {int: "q", float: "d", Number: "d", bool: "b"}
"""How a field of an update is kept, by its type; see `array`."""
FIELDS = {
    name: field.annotation for name, field in Step.model_fields.items() if name not in ("type", "metrics")
}
"""The fields of an update that are one number, with their types."""
NULLABLE = [name for name, kind in FIELDS.items() if kind == Number]
FLAGS = [name for name, kind in FIELDS.items() if kind is bool]


class PackedSteps:
    """Updates that are made anew when they are asked for; inside, NaN stands for None.

    It is what a `History` needs of a list: it grows, is sliced, and gives its items by number.
    """

    def __init__(self) -> None:
        self._length = 0
        self._fields: dict[str, array[Any]] = {name: array(KINDS[kind]) for name, kind in FIELDS.items()}
        self._metrics: dict[str, array[Any]] = {}
        self._names: dict[tuple[str, ...], int] = {}
        """The sets of metrics that an update has; nearly always there is one."""
        self._named = array("L")
        """Which of them each update has."""

    def extend(self, steps: Sequence[Step]) -> None:
        """Add updates."""
        for name, column in self._fields.items():
            values = map(attrgetter(name), steps)
            column.extend(map(_packed, values) if name in NULLABLE else values)
        metrics = [step.metrics for step in steps]
        self._named.extend([self._names.setdefault(tuple(each), len(self._names)) for each in metrics])
        for name in dict.fromkeys(chain.from_iterable(metrics)):
            if name not in self._metrics:
                self._metrics[name] = array("d", [math.nan]) * self._length
        for name, column in self._metrics.items():
            column.extend([_packed(each.get(name)) for each in metrics])
        self._length += len(steps)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Step]:
        return map(self.__getitem__, range(self._length))

    @overload
    def __getitem__(self, place: int) -> Step: ...
    @overload
    def __getitem__(self, place: slice) -> PackedSteps: ...
    def __getitem__(self, place: int | slice) -> Step | PackedSteps:
        """One update, or a copy of a part."""
        if isinstance(place, slice):
            return self._each(lambda column: column[place])
        values: dict[str, Any] = {name: column[place] for name, column in self._fields.items()}
        values |= {name: _number(values[name]) for name in NULLABLE}
        values |= {name: bool(values[name]) for name in FLAGS}
        names = list(self._names)[self._named[place]]
        values["metrics"] = {name: _number(self._metrics[name][place]) for name in names}
        return Step(**values)

    def chosen(self, chosen: Sequence[bool]) -> PackedSteps:
        """A copy with those updates for which there is True.

        Args:
            chosen: (n,) for n updates.
        """
        return self._each(lambda column: array(column.typecode, compress(column, chosen)))

    def column(self, name: str, places: slice) -> list[Any]:
        """A field's values in a part of the updates, of the field's own type."""
        values = self._fields[name][places].tolist()
        if name in NULLABLE:
            return list(map(_number, values))
        return list(map(bool, values)) if name in FLAGS else values

    def metric(self, name: str, places: slice) -> list[Number]:
        """A metric's values in a part of the updates; None where it was not measured."""
        column = self._metrics.get(name)
        if column is None:
            return [None] * len(range(self._length)[places])
        return list(map(_number, column[places]))

    @property
    def metrics(self) -> list[str]:
        """The metrics that any of the updates has, in the order of their appearance."""
        return list(self._metrics)

    def _each(self, part: Callable[[array[Any]], array[Any]]) -> PackedSteps:
        made = PackedSteps()
        made._fields = {name: part(column) for name, column in self._fields.items()}
        made._names, made._named = dict(self._names), part(self._named)
        sets = list(self._names)
        kept = set(chain.from_iterable(sets[number] for number in set(made._named)))
        made._metrics = {name: part(column) for name, column in self._metrics.items() if name in kept}
        made._length = len(made._named)
        return made


def _packed(value: Number) -> float:
    return math.nan if value is None else value


def _number(value: float) -> Number:
    return None if value != value else value  # NaN is the one number that is not itself
