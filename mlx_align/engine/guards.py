"""Watches over a run that no single step can keep."""

from __future__ import annotations

from mlx_align.backends.base import MemoryUse

READINGS, GROWTH = 4, 1.25


class MemoryWatch:
    """Notices memory that grows and grows: a leak ends a long run hours after it began.

    After an evaluation nothing but the adapter, its optimiser and the frozen base should be there, so the
    memory in use is always the same then. Growth at READINGS readings in a row, to GROWTH times what it was
    before them, is reported once.
    """

    def __init__(self) -> None:
        self._readings: list[int] = []
        self._told = False

    def look(self, use: MemoryUse) -> str | None:
        """What to tell a person, or None."""
        self._readings = [*self._readings[-READINGS:], use.active]
        first, last = self._readings[0], self._readings[-1]
        grows = all(a < b for a, b in zip(self._readings, self._readings[1:], strict=False))
        if self._told or len(self._readings) <= READINGS or not grows or last < GROWTH * first:
            return None
        self._told = True
        return (
            f"Memory in use grew at each of the last {READINGS} evaluations, from {first / 1e9:.2f} to "
            f"{last / 1e9:.2f} GB. If it goes on, stop the run and resume it: a new process begins anew. "
            "Please report it."
        )
