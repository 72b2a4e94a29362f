"""Memory that grows and grows is reported once; memory that goes up and down is not."""

from __future__ import annotations

from mlx_align.backends.base import MemoryUse
from mlx_align.engine.guards import MemoryWatch


def told(readings: list[int]) -> list[int]:
    """The readings, by number, at which something was said."""
    watch = MemoryWatch()
    return [i for i, active in enumerate(readings) if watch.look(MemoryUse(active, active, 0))]


def test_growth_is_reported_once() -> None:
    assert told([100, 110, 120, 130, 140, 150, 160]) == [4]


def test_growth_after_a_quiet_time_is_noticed() -> None:
    assert told([100] * 10 + [110, 120, 130, 140]) == [13]


def test_little_growth_and_changes_up_and_down_are_not() -> None:
    assert told([100, 101, 102, 103, 104, 105]) == []
    assert told([100, 150, 90, 160, 100, 170, 200, 180]) == []
    assert told([100] * 20) == []
