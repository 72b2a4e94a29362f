"""Ranks that train together, over MLX's own communication: a ring of sockets, Thunderbolt's RDMA or NCCL."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import State
from mlx_align.errors import AlignError

T = TypeVar("T")
JOIN_SECONDS = 6 * 3600
"""So long a rank waits for the others: rank 0 may first have to fetch a model."""


def join() -> MlxWorld:
    """Meet the other ranks that `mlx.launch` has started.

    While MLX waits for them no Python runs, so the signals that ask for an end do their default: they end
    the process, and so does the alarm.

    Raises:
        AlignError: they cannot be reached.
    """
    with _default_signals():
        signal.alarm(JOIN_SECONDS)
        try:
            while True:
                try:
                    return MlxWorld(mx.distributed.init(strict=True))
                except RuntimeError as error:
                    if "connect" not in str(error):  # else the neighbour is not listening yet: try again
                        raise AlignError(
                            f"the ranks cannot be joined: {error}",
                            hint="Look at the hostfile that mlx.launch was given.",
                        ) from None
        finally:
            signal.alarm(0)


@contextmanager
def _default_signals() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class MlxWorld:
    """`backends.base.World` over an MLX group.

    Raises:
        AlignError: (by every method) a rank has gone.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self.rank, self.size = int(group.rank()), int(group.size())

    def gather(self, value: T) -> list[T]:
        """What every rank gave."""
        data = json.dumps(value).encode()
        lengths = self._all_gather(np.array([len(data)], np.int32))
        padded = np.zeros(lengths.max(), np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        rows = self._all_gather(padded).reshape(self.size, -1)
        return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]

    def sum(self, state: State) -> State:
        """The arrays of all ranks added up, those of one type in one message."""
        total: State = {}
        for dtype in sorted({value.dtype for value in state.values()}, key=str):
            named = {name: state[name] for name in sorted(state) if state[name].dtype == dtype}
            flat = np.concatenate([value.reshape(-1) for value in named.values()])
            summed = self._call(mx.distributed.all_sum, flat) if flat.size else flat
            ends = np.cumsum([value.size for value in named.values()])
            parts = np.split(summed, ends[:-1])
            total.update({n: part.reshape(named[n].shape) for n, part in zip(named, parts, strict=True)})
        return total

    def _all_gather(self, array: NDArray[Any]) -> NDArray[Any]:
        return self._call(mx.distributed.all_gather, array)

    def _call(self, collective: Callable[..., mx.array], array: NDArray[Any]) -> NDArray[Any]:
        try:
            return np.array(collective(mx.array(array), group=self._group))
        except RuntimeError as error:
            raise AlignError(
                f"another rank has gone: {error}",
                where=f"rank {self.rank} of {self.size}",
                hint="What ended it stands in what that rank printed. Start all ranks again with "
                "`mlx.launch ... mlx-align runs resume RUN`: they go on from the last checkpoint.",
            ) from None
