"""Runs that are well though their figures jump are left alone at every step; what goes wrong is told soon.

The courses are made of random margins, answers and lengths, as batches of 1 to 8 rows give them. Thousands of
such runs were looked at while the thresholds were chosen; a few, always the same, are looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_align.events import Eval, RewardFacts, Rollout, RunStarted, Step
from mlx_align.packed import PackedSteps
from mlx_align.run_state import History, RunState, Steps
from mlx_align_tui.live.estimates import estimate, roughness
from mlx_align_tui.live.health import findings

Array = NDArray[np.float64]
Course = tuple[Array, dict[str, Array]]
"""(n,) losses, and (n,) values of each metric."""

BATCHES = (1, 2, 4, 8)
LENGTH = 400
EVERY = 10
"""Steps between two looks; each look is a chance to be wrong."""


def losses(margins: Array) -> Course:
    """A pair method's course: margins (n, batch)."""
    means = {"margin": margins.mean(axis=1), "accuracy": (margins > 0).mean(axis=1)}
    return np.logaddexp(0.0, -margins).mean(axis=1), means


def learning(rng: np.random.Generator, batch: int) -> Course:
    """Pairs: margins that grow from nothing to 4, and spread as they grow."""
    share = np.linspace(0.0, 1.0, LENGTH)[:, None]
    return losses(rng.normal(4 * share, 0.1 + 2.9 * share, size=(LENGTH, batch)))


def learnt(rng: np.random.Generator, batch: int) -> Course:
    """Pairs: nothing changes any more, and a few rows stay hard."""
    return losses(rng.normal(2.0, 2.0, size=(LENGTH, batch)))


def answers(rng: np.random.Generator, batch: int) -> Course:
    """Rows of one answer, whose loss falls and differs from row to row."""
    falling = 1.0 + np.exp(-5 * np.linspace(0.0, 1.0, LENGTH))
    return falling * rng.lognormal(0.0, 0.5, size=(LENGTH, batch)).mean(axis=1), {}


def flat(rng: np.random.Generator, batch: int) -> Course:
    """Rows of any difficulty, and no change."""
    return rng.exponential(1.0, size=(LENGTH, batch)).mean(axis=1), {}


def ruined(rng: np.random.Generator, batch: int) -> Course:
    """Pairs that were learnt, until the margins fall from 2 to -6 within fifty steps."""
    fall = 8 * np.clip((np.arange(LENGTH) - LENGTH // 2) / 50, 0, 1)
    return losses(rng.normal((2 - fall)[:, None], 3.0, size=(LENGTH, batch)))


def doubled(rng: np.random.Generator, batch: int) -> Course:
    """Rows of one answer, whose loss becomes twice as high within thirty steps, and stays so."""
    rise = 1 + np.clip((np.arange(LENGTH) - LENGTH // 2) / 30, 0, 1)
    loss, metrics = answers(rng, batch)
    return loss * rise, metrics


def steps_of(course: Course) -> list[Step]:
    loss, metrics = course
    return [
        Step(
            step=n + 1,
            epoch=0.0,
            loss=float(loss[n]),
            learning_rate=0.0,
            grad_norm=None,
            metrics={k: float(v[n]) for k, v in metrics.items()},
        )
        for n in range(len(loss))
    ]


def evals_of(losses: Sequence[float]) -> list[Eval]:
    """Evaluations, evenly spread over a run."""
    gap = LENGTH // (len(losses) - 1)
    return [Eval(step=n * gap, rows=64, metrics={"loss": loss}) for n, loss in enumerate(losses)]


def rollouts_of(
    rng: np.random.Generator, prompts: int, *, longer: float = 1.0, equal: float = 0.5, cut: float = 0.1
) -> list[Rollout]:
    """Rollouts of eight answers to each prompt, which become `longer` times as long."""
    found = []
    for number in range(LENGTH):
        usual = rng.lognormal(4.5, 0.3, size=(prompts, 1)) * (1 + (longer - 1) * number / LENGTH)
        lengths = usual * rng.lognormal(0.0, 0.6, size=(prompts, 8))
        found.append(
            Rollout(
                step=number + 1, number=number, prompts=prompts, completions=8 * prompts,
                reward=RewardFacts(mean=0.5, std=0.1), rewards={}, spread=0.1, advantage_std=1.0,
                no_signal=float((rng.random(prompts) < equal).mean()), length_mean=float(lengths.mean()),
                length_max=int(lengths.max()), truncated=float((rng.random(8 * prompts) < cut).mean()),
                tokens=1, seconds=1.0, scoring_seconds=0.1,
            )
        )  # fmt: skip
    return found


def told(
    steps: Sequence[Step], evals: Sequence[Eval] = (), rollouts: Sequence[Rollout] = (), *, first: int = EVERY
) -> dict[str, int]:
    """What is said of a run that is looked at as it goes: title -> the step at which it was said first."""
    started = RunStarted(
        method="any", model="m", data="d", backend="mlx", device="cpu", pid=1, total_steps=len(steps),
        train_rows=1, valid_rows=1, trainable_parameters=1,
    )  # fmt: skip
    whole, held_out, sampled = PackedSteps(), list(evals), list(rollouts)
    whole.extend(steps)
    said: dict[str, int] = {}
    for count in range(first, len(whole) + 1, EVERY):
        state = replace(
            RunState(started=started),
            step=count,
            steps=Steps(whole, count),
            evals=History(held_out, sum(each.step <= count for each in held_out)),
            rollouts=History(sampled, min(count, len(sampled))),
        )
        for finding in findings(state):
            if finding.level != "good":
                said.setdefault(finding.title, count)
    return said


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("course", [learning, learnt, answers, flat])
def test_noise_is_no_news(course: Callable[[np.random.Generator, int], Course], batch: int) -> None:
    rng = np.random.default_rng([batch, 1])
    held_out = [1 + np.exp(-5 * n / 20) + 0.03 * rng.normal() for n in range(21)]
    assert told(steps_of(course(rng, batch)), evals_of(held_out)) == {}


@pytest.mark.parametrize("prompts", BATCHES)
def test_noise_of_samples_is_no_news(prompts: int) -> None:
    rng = np.random.default_rng([prompts, 2])
    steps = steps_of((rng.normal(0.0, 0.1, size=LENGTH), {}))
    assert told(steps, (), rollouts_of(rng, prompts)) == {}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("course", [ruined, doubled])
def test_a_run_that_is_ruined_is_told_soon(
    course: Callable[[np.random.Generator, int], Course], batch: int
) -> None:
    said = told(steps_of(course(np.random.default_rng([batch, 3]), batch)))
    assert next(iter(said)) == "diverging"
    assert LENGTH // 2 < said["diverging"] <= LENGTH // 2 + (60 if batch > 1 else 100)


def test_a_spike_that_passes_is_no_news() -> None:
    loss, _ = answers(np.random.default_rng(8), 4)
    loss[200:219] *= 4
    assert told(steps_of((loss, {}))) == {}


@pytest.mark.parametrize("noise", [0.003, 0.02])
def test_learning_by_heart_is_told(noise: float) -> None:
    rng = np.random.default_rng(4)
    best = 6
    held_out = [1 + np.exp(-n) + 0.08 * max(0, n - best) + noise * rng.normal() for n in range(21)]
    said = told(steps_of(answers(rng, 4)), evals_of(held_out))
    assert list(said) == ["overfitting"]
    assert best < said["overfitting"] / (LENGTH // 20) <= best + 8


def test_guessing_is_told_when_it_is_sure() -> None:
    rng = np.random.default_rng(5)
    said = told(steps_of(losses(rng.normal(0.0, 0.05, size=(LENGTH, 8)))))
    assert list(said) == ["no signal"]
    assert told(steps_of(losses(rng.normal(0.05, 0.2, size=(LENGTH, 8))))) == {}, "60% of the pairs"


@pytest.mark.parametrize(
    ("title", "change"),
    [
        ("no signal", {"equal": 0.97}),
        ("answers cut off", {"cut": 0.6}),
        ("length creeps up", {"longer": 3.0}),
    ],
)
@pytest.mark.parametrize("prompts", BATCHES)
def test_samples_that_go_wrong_are_told(prompts: int, title: str, change: dict[str, float]) -> None:
    rng = np.random.default_rng([prompts, 6])
    steps = steps_of((rng.normal(0.0, 0.1, size=LENGTH), {}))
    assert list(told(steps, (), rollouts_of(rng, prompts, **change))) == [title]


def test_an_estimate_knows_how_sure_it_is() -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(3.0, 2.0, size=400)
    found = estimate(values.tolist())
    assert found is not None
    assert found.mean == pytest.approx(values.mean())
    assert found.error == pytest.approx(0.1, rel=0.3)
    rising = estimate((values + np.linspace(-50, 50, 400)).tolist())
    assert rising is not None
    assert rising.error == pytest.approx(found.error, rel=0.05), "a rise is no noise"
    lasting = estimate(np.repeat(values[:80], 5).tolist())
    assert lasting is not None
    assert lasting.error > 1.7 * found.error, "the same value five times is no news"
    assert estimate([1.0, None, float("nan"), 2.0]) is None
    assert roughness((np.linspace(0, 9, 300) + rng.normal(0, 0.5, 300)).tolist()) == pytest.approx(
        0.5, rel=0.2
    )
