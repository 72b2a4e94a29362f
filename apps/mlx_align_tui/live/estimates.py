"""Means of noisy measurements, and how much of a difference is more than noise. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SURE = 5.0
"""So many standard errors are no accident, although every step is looked at."""
FEWEST = 5
"""Values, at least, that an uncertainty can be read from."""


@dataclass(frozen=True)
class Estimate:
    """A mean, and `error`: how far by chance it usually is from what it stands for."""

    mean: float
    error: float

    def above(self, other: Estimate) -> bool:
        """Whether it is larger than another, beyond noise."""
        return self.mean - other.mean > SURE * math.hypot(self.error, other.error)


def known(values: Iterable[float | None]) -> list[float]:
    """Those that were measured and are finite."""
    return [value for value in values if value is not None and math.isfinite(value)]


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """The mean of a course; None of fewer than FEWEST values.

    The noise is what a straight line leaves over, so that a rise is not taken for noise. Noise that lasts
    from one value to the next makes a mean as uncertain as fewer values would.
    """
    numbers = np.array(known(values))
    count = len(numbers)
    if count < FEWEST:
        return None
    mean, places = float(numbers.mean()), np.arange(count) - (count - 1) / 2
    noise = numbers - mean - places * float(places @ numbers / (places @ places))
    spread, lasting = float(noise @ noise), float(noise[1:] @ noise[:-1])
    share = min(max(lasting / spread, 0.0), 0.9) if spread else 0.0
    return Estimate(mean, math.sqrt(spread / (count - 2) / count * (1 + share) / (1 - share)))


def roughness(values: list[float]) -> float:
    """The standard deviation of the noise on a smooth course: by second differences, which know no trend."""
    bends = [a - 2 * b + c for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return math.sqrt(sum(bend * bend for bend in bends) / (6 * len(bends))) if bends else math.inf
