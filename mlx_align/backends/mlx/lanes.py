"""Parts of a batch side by side on the cores of a CPU.

Most operations of MLX's CPU device use one core; only OpenBLAS's matrix products use more. So a batch's rows
are divided among lanes: threads, each with a stream of its own. Graphs are built one after the other, because
all of them are built on the same modules, and computed at the same time, in stages (`stages`).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import mlx.core as mx

from mlx_align.backends.mlx.stages import Stages, evaluate

P = TypeVar("P")
T = TypeVar("T")


class Lanes:
    """Computes several things at once.

    Args:
        count: how many at the most.
        blas: OpenBLAS, whose threads are divided among the lanes; None: it is not in use.
        stages: where a graph says, while it is built, up to what it may be computed; None: it is whole.

    Attributes:
        count: how many lanes there are.
        stages: as given.
    """

    def __init__(self, count: int = 1, blas: ctypes.CDLL | None = None, stages: Stages | None = None) -> None:
        self.count, self._blas = count, blas
        self.stages = stages or Stages(wanted=False)
        self._building = threading.Lock()
        self._pool = ThreadPoolExecutor(count, "lane", initializer=_begin) if count > 1 else None

    def map(self, build: Callable[[P], T], parts: Sequence[P]) -> list[T]:
        """What `build` makes of each part, evaluated; in the parts' order."""
        self._share_blas(len(parts))
        if self._pool is None or len(parts) == 1:
            return [self._evaluated(build, part) for part in parts]
        try:
            return list(self._pool.map(lambda part: self._evaluated(build, part), parts))
        finally:
            self._share_blas(1)

    def _evaluated(self, build: Callable[[P], T], part: P) -> T:
        with self._building:
            try:
                made: Any = build(part)
            finally:
                stages = self.stages.taken()
        evaluate(stages)
        mx.eval(made)
        result: T = made
        return result

    def _share_blas(self, among: int) -> None:
        if self._blas is not None and self._pool is not None:
            self._blas.openblas_set_num_threads(max(1, self.count // max(1, among)))


def _begin() -> None:
    """A thread's own stream: MLX keeps streams and the default device by thread."""
    mx.set_default_device(mx.cpu)
    mx.set_default_stream(mx.new_stream(mx.cpu))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
