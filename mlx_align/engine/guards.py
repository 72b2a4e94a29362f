"""Watches over a run that no single step can keep."""

from __future__ import annotations

from mlx_align.backends.base import MemoryUse

READINGS, GROWTH = 8, 1.25


class MemoryWatch:
    """Notices memory that grows and grows: a leak ends a long run hours after it began.

    Between two updates nothing but the adapter, its optimiser and the frozen base should be there, so the
    memory in use is always the same then. Freed buffers that a framework keeps for reuse add to it where they
    are more than it may keep; below that they come and go with the shapes of batches. What has grown at
    READINGS readings or more and fallen at none between them, to GROWTH times what it was before, is reported
    once. Readings at which it stays as it is do not count: what leaks at evaluations only grows rarely.

    Not seen: how many buffers there are (MLX tells bytes only), a leak that does not come to a quarter of the
    whole, one in the first EVERY * (READINGS + 1) updates of an attempt, and, on a GPU, what Python holds. On
    a CPU torch tells the size of the whole process, which longer batches may still raise as a run begins; on
    macOS not even that (`active` is 0), so nothing is seen there.
    """

    EVERY = 10
    """Updates from one reading to the next."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._last = 0
        self._since = 0
        self._grown = 0
        self._told = False

    def look(self, use: MemoryUse) -> str | None:
        """What to tell a person, or None."""
        held = use.active + use.overkept
        if self._before is None or held < self._last or held == self._before:
            self._before, self._since, self._grown = held, 0, 0
        else:
            self._since += 1
            self._grown += held > self._last
        self._last = held
        if self._told or self._grown < READINGS or held < GROWTH * self._before:
            return None
        self._told = True
        return (
            f"Memory in use has grown for {self._since * self.EVERY} updates, from "
            f"{self._before / 1e9:.2f} to {held / 1e9:.2f} GB. If it goes on, stop the run and resume it: "
            "a new process begins anew. Please report it."
        )
