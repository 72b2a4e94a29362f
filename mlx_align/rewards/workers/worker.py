"""A function in its own process, restarted when it hangs or dies."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mlx_align.rewards.base import Outcome, RewardError, Sampled
from mlx_align.rewards.workers.process import Child, ChildError

STARTS = 5
"""A function that ends its process more often in one batch is not asked again before the next."""


@dataclass(frozen=True)
class Limits:
    """What a scoring process may use.

    Attributes:
        batch: seconds that the function may take for all completions that are scored together; starting its
            process anew is not counted.
        each: seconds for one completion.
        start: seconds to load the file.
        memory: MiB of address space; macOS does not keep it.
    """

    batch: float = math.inf
    each: float = math.inf
    start: float = 120.0
    memory: int = 8192


class Worker:
    """A function of a Python file as a reward; see `rewards.python` for how it is called.

    Args:
        file: the Python file, absolute.
        function: its name there.
        limits: what it may use.

    Raises:
        ChildError: the file cannot be loaded, or has no such function.
    """

    def __init__(self, file: Path, function: str, limits: Limits) -> None:
        self._file, self._function, self._limits = file, function, limits
        self._child: Child | None = self._started()
        self._left, self._starts = limits.batch, 0

    def score(self, samples: Sequence[Sampled]) -> list[Outcome]:
        """The function's values; where it hangs or dies, that completion fails and a new process begins."""
        self._left, self._starts = self._limits.batch, 0
        outcomes: list[Outcome] = []
        try:
            for sampled in samples:
                outcomes.append(self._one(sampled))
        except ChildError as error:  # there is no time or no process left for the others
            lost = RewardError(str(error))
            outcomes += [lost] * (len(samples) - len(outcomes))
        return outcomes

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _one(self, sampled: Sampled) -> Outcome:
        if self._left <= 0:
            raise ChildError(f"not reached: the {self._limits.batch:g} seconds of the batch were over")
        child, began = self._ready(), time.monotonic()
        try:
            reply = child.ask(asdict(sampled), began + min(self._left, self._limits.each))
        except TimeoutError:
            self.close()
            return RewardError(f"was not done after {min(self._limits.batch, self._limits.each):g} seconds")
        except ChildError as error:
            self.close()
            return RewardError(str(error))
        finally:
            self._left -= time.monotonic() - began
        return RewardError(reply["error"]) if "error" in reply else float(reply["value"])

    def _ready(self) -> Child:
        if self._child is None:
            if self._starts == STARTS:
                raise ChildError(f"not reached: its process was started again {STARTS} times for this batch")
            self._starts += 1
            try:
                self._child = self._started()
            except ChildError as error:
                raise ChildError(f"it could not be started again: {error}") from None
        return self._child

    def _started(self) -> Child:
        limits = self._limits
        return Child(self._file, self._function, memory=limits.memory, seconds=limits.start)
