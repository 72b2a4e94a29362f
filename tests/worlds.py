"""Several ranks in one process: threads that meet in every call of `World`. For what needs no framework."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from mlx_align.backends.base import State, World

T = TypeVar("T")
MEET_SECONDS = 60.0


class Threads:
    """`backends.base.World` among threads."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, table: list[Any]) -> None:
        self.rank, self.size = rank, size
        self._barrier, self._table = barrier, table

    def gather(self, value: T) -> list[T]:
        return [json.loads(text) for text in self._exchange(json.dumps(value))]

    def sum(self, state: State) -> State:
        states = self._exchange(state)
        assert len({tuple((k, v.shape, v.dtype) for k, v in sorted(each.items())) for each in states}) == 1
        return {
            name: np.sum([each[name] for each in states], axis=0, dtype=state[name].dtype) for name in state
        }

    def _exchange(self, value: Any) -> list[Any]:
        self._table[self.rank] = value
        self._barrier.wait()
        values = list(self._table)
        self._barrier.wait()
        return values


def on_ranks(size: int, work: Callable[[World], T]) -> list[T | Exception]:
    """What a function comes to on each rank, or what it raises there."""
    barrier, table = threading.Barrier(size, timeout=MEET_SECONDS), [None] * size

    def one(rank: int) -> T | Exception:
        try:
            return work(Threads(rank, size, barrier, table))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))
