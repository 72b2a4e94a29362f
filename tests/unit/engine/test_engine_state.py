"""What the trainer knows: weighting, the best so far, and a checkpoint's JSON."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest

from mlx_align.backends.base import Scores
from mlx_align.engine.state import TrainerState, Window


def scores(nll: float, margins: list[float]) -> Scores:
    return Scores({"nll": nll}, {"margin": np.array(margins, np.float32)}, np.zeros((1, 1), np.float32))


def test_rows_weigh_the_same_however_they_were_divided() -> None:
    one, two = Window(), Window()
    one.add(scores(6.0, [1.0, 2.0, 6.0]), rows=3, tokens=30, padded=48)
    two.add(scores(1.0, [1.0]), rows=1, tokens=5, padded=8)
    two.add(scores(5.0, [2.0, 6.0]), rows=2, tokens=25, padded=40)
    assert one == two
    assert one.means() == {"margin": 3.0}
    assert one.loss({"nll": 12.0}) == 0.5
    assert (one.rows, one.tokens, one.padded) == (3, 30, 48)


def test_each_term_has_its_own_denominator() -> None:
    window = Window(sums={"nll": 6.0, "odds": 1.0})
    assert window.loss({"nll": 12.0, "odds": 4.0}) == 0.75


# The best so far


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("loss", [3.0, 2.0, 2.0, 2.5, 1.0], [True, True, False, False, True]),
        ("accuracy", [0.5, 0.4, 0.5, 0.75], [True, False, False, True]),
        ("margin", [-2.0, -1.0, -3.0, 0.0], [True, True, False, True]),
        ("loss", [math.nan, 1.0, math.inf, -math.inf], [False, True, False, False]),
        ("margin", [math.inf, 1.0], [False, True]),
    ],
)
def test_which_evaluation_is_the_best(metric: str, values: list[float], best: list[bool]) -> None:
    state = TrainerState()
    got = []
    for step, value in enumerate(values):
        state.step = step
        got.append(state.note_eval({metric: value, "other": 0.0}, metric))
    assert got == best
    last = max(index for index, is_best in enumerate(best) if is_best)
    assert (state.best_step, state.best_value) == (last, values[last])
    assert state.stale_evals == len(best) - 1 - last
    assert state.last_metrics[metric] == values[-1] or math.isnan(values[-1])


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        # (mean reward, share that could not be scored): a better mean of fewer answers is no better
        ([(0.5, 0.0), (0.7, 0.0), (0.9, 0.78), (0.71, 0.0)], [True, True, False, True]),
        # a few more failures are no obstacle, and do not add up to one
        ([(0.5, 0.0), (0.6, 0.05), (0.7, 0.1), (0.65, 0.04)], [True, True, False, True]),
        # and a mean of few answers does not stay the best for ever
        ([(0.9, 0.7), (0.8, 0.66), (0.6, 0.0), (0.7, 0.0)], [True, False, True, True]),
        ([(math.nan, 1.0), (0.3, 0.96), (0.2, 0.5)], [False, True, True]),
        ([(0.3, 0.5), (math.nan, 0.0), (0.4, 0.5)], [True, False, False]),
    ],
)
def test_a_mean_of_few_answers_is_not_the_best(
    evaluations: list[tuple[float, float]], best: list[bool]
) -> None:
    state = TrainerState()
    got = []
    for reward, unscored in evaluations:
        metrics = {"reward": reward, **({"unscored": unscored} if unscored else {})}
        got.append(state.note_eval(metrics, "reward"))
        state = TrainerState.from_json(json.loads(json.dumps(state.to_json())))
    assert got == best


def test_a_checkpoint_of_an_older_version_keeps_its_best() -> None:
    state = TrainerState()
    state.note_eval({"loss": 1.0}, "loss")
    tree = state.to_json()
    del tree["best_unscored"], tree["least_unscored"]
    older = TrainerState.from_json(tree)
    assert not older.note_eval({"loss": 2.0}, "loss")
    assert older.note_eval({"loss": 0.5}, "loss")


# A checkpoint's JSON


def bits(value: Any) -> Any:
    """Floats as their bits, so that NaN equals itself and -0.0 is not 0.0."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    return {key: bits(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_state_survives_json_bit_for_bit() -> None:
    odd = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": -0.0, "e": 0.1 + 0.2, "f": 5e-324}
    state = TrainerState(
        step=3, position=7, bad_updates=2, best_value=0.1 + 0.2, best_step=1, best_checkpoint="step-000001",
        stale_evals=1, seconds=1 / 3, last_metrics=odd, window=Window(dict(odd), dict(odd), 4, 99, 128),
    )  # fmt: skip
    text = json.dumps(state.to_json(), allow_nan=False)
    back = TrainerState.from_json(json.loads(text))
    assert bits(vars(back.window)) == bits(vars(state.window))
    assert bits({**vars(back), "window": None}) == bits({**vars(state), "window": None})
    assert TrainerState.from_json(json.loads(json.dumps(TrainerState().to_json()))) == TrainerState()
