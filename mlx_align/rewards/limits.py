"""A time limit for library code that a completion could keep busy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlx_align.data.templates import time_limit
from mlx_align.rewards.base import RewardError

SECONDS = 5.0
"""Honest patterns and schemas need milliseconds."""


@contextmanager
def unless_slow(what: str) -> Iterator[None]:
    """Raise RewardError where the block is not done in time; only in the main thread, as `time_limit`."""
    try:
        with time_limit(SECONDS):
            yield
    except TimeoutError:
        raise RewardError(f"{what} was not done with this completion after {SECONDS:g} seconds") from None
