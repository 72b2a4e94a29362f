"""The learning rate of each update, in numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlx_align.config import OptimConfig
from mlx_align.engine.schedule import learning_rate


def rates(total: int, **optim: Any) -> list[float]:
    config = OptimConfig(**{"lr": 1.0, "warmup": 0.0, **optim})
    return [learning_rate(step, total, config) for step in range(total)]


def test_constant() -> None:
    assert rates(4, schedule="constant") == [1.0] * 4


def test_linear() -> None:
    assert rates(4, schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_cosine() -> None:
    half = math.sqrt(0.5) / 2
    assert rates(4, schedule="cosine") == pytest.approx([1.0, 0.5 + half, 0.5, 0.5 - half])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_warmup_rises_from_its_first_update_to_the_full_rate(schedule: str) -> None:
    assert rates(10, schedule=schedule, warmup=0.4, lr=8.0)[:5] == pytest.approx([2.0, 4.0, 6.0, 8.0, 8.0])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_decay_ends_at_min_lr(schedule: str) -> None:
    config = OptimConfig(lr=2.0, schedule=schedule, min_lr=0.1, warmup=0.1)
    assert learning_rate(1000, 1000, config) == pytest.approx(0.2)
    assert learning_rate(999, 1000, config) == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.99])
def test_no_update_is_wasted_and_none_is_above_the_peak(schedule: str, warmup: float) -> None:
    for total in (1, 2, 3, 19, 20, 101):
        values = rates(total, schedule=schedule, warmup=warmup)
        assert min(values) > 0
        assert max(values) == 1.0, f"the peak is not reached in {total} updates"
        peak = values.index(1.0)
        assert values[:peak] == sorted(values[:peak])
        assert values[peak:] == sorted(values[peak:], reverse=True)
