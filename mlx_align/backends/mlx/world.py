"""Ranks that train together, over MLX's own communication: a ring of sockets, Thunderbolt's RDMA or NCCL."""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import State
from mlx_align.errors import AlignError, DeviceAbortError

T = TypeVar("T")
JOIN_SECONDS = 6 * 3600
"""So long a rank waits for the others at the start: rank 0 may first have to fetch a model."""
LOST_SECONDS = 60.0
"""An engine that was left alone with a call that no other rank answers ends itself after this."""
HEAD = "<QI"
HEAD_BYTES = struct.calcsize(HEAD)
"""Number and check sum of a message."""


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

    When a rank has gone, MLX's calls may fail, return at once with whatever was in memory, or wait for ever
    (all seen with the ring). So every message proves itself: what is gathered comes with its number and a
    check sum, sums have a known number at both ends, and none is believed before all ranks have said that
    they have it. And an engine that waits for a rank after the program that started it has gone ends itself.

    Raises:
        AlignError: (by every method) a rank has gone.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self.rank, self.size = int(group.rank()), int(group.size())
        self._number, self._waiting_since = 0, math.inf
        threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True).start()

    def gather(self, value: T) -> list[T]:
        """What every rank gave."""
        data = json.dumps(value).encode()
        lengths = self._messages(struct.pack("<q", len(data)))
        longest = max(struct.unpack("<q", length)[0] for length in lengths)
        # Leading blanks are nothing to JSON.
        return [json.loads(text) for text in self._messages(data.rjust(longest))]

    def _messages(self, data: bytes) -> list[bytes]:
        """The bytes that every rank gave, all of the same length."""
        self._number += 1
        mine = struct.pack(HEAD, self._number, zlib.crc32(data)) + data
        rows = self._call(mx.distributed.all_gather, np.frombuffer(mine, np.uint8))
        messages = [row.tobytes() for row in np.split(rows, self.size)]
        for message in messages:
            number, check = struct.unpack_from(HEAD, message)
            if number != self._number or check != zlib.crc32(message[HEAD_BYTES:]):
                raise self._gone("its message is damaged")
        return [message[HEAD_BYTES:] for message in messages]

    def sum(self, state: State) -> State:
        """The arrays of all ranks added up, those of one type in one message."""
        total: State = {}
        for dtype in sorted({value.dtype for value in state.values()}, key=str):
            named = {name: state[name] for name in sorted(state) if state[name].dtype == dtype}
            parts = self._summed([value.reshape(-1) for value in named.values()])
            total.update({n: part.reshape(named[n].shape) for n, part in zip(named, parts, strict=True)})
        self._messages(b"summed")
        return total

    def _summed(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        self._number += 1
        dtype = arrays[0].dtype
        known = np.full(1, 1 + self._number % 100, dtype)
        summed = self._call(mx.distributed.all_sum, np.concatenate([known, *arrays, known]))
        if not (summed[[0, -1]] == np.repeat(known, self.size).sum(dtype=dtype)).all():
            raise self._gone("its numbers are missing")
        return np.split(summed[1:-1], np.cumsum([array.size for array in arrays])[:-1])

    def _call(self, collective: Callable[..., mx.array], array: NDArray[Any]) -> NDArray[Any]:
        self._waiting_since = time.monotonic()
        try:
            result = collective(mx.array(array), group=self._group)
            mx.eval(result)  # other threads run meanwhile, as they would not in np.array
            return np.array(result)
        except RuntimeError as error:
            raise self._gone(str(error)) from None
        finally:
            self._waiting_since = math.inf

    def _gone(self, why: str) -> AlignError:
        return AlignError(
            f"another rank has gone: {why}",
            where=f"rank {self.rank} of {self.size}",
            hint="What ended it stands in what that rank printed. Start all ranks again with "
            "`mlx.launch ... mlx-align runs resume RUN`: they go on from the last checkpoint.",
        )

    def _watch(self, parent: int) -> None:
        while os.getppid() == parent or time.monotonic() - self._waiting_since < LOST_SECONDS:
            time.sleep(1.0)
        print("nothing has come from another rank, and nobody waits for this one any more", file=sys.stderr)
        os._exit(DeviceAbortError.exit_code)
