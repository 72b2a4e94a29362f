"""The curves are a valid picture that needs nothing else, whatever the values are."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from mlx_align.curves import WIDTH, Series, series_of, svg, ticks
from mlx_align.events import Eval, RewardFacts, Rollout, Step
from mlx_align.run_state import RunState, reduce

NAMESPACE = "{http://www.w3.org/2000/svg}"


def step(number: int, loss: float | None, **metrics: float | None) -> Step:
    return Step(
        attempt=1, step=number, epoch=0.0, loss=loss, learning_rate=1e-4, grad_norm=1.0, metrics=metrics
    )


def rollout(number: int, reward: float | None) -> Rollout:
    return Rollout(
        attempt=1, step=number, number=number, prompts=1, completions=2, tokens=9, seconds=1.0,
        reward=RewardFacts(mean=reward, std=0.0), rewards={}, spread=0.0, advantage_std=1.0,
        no_signal=0.0, length_mean=4.5, length_max=6, truncated=0.0, scoring_seconds=0.1,
    )  # fmt: skip


def state(*events: Step | Eval | Rollout) -> RunState:
    folded = RunState()
    for event in events:
        folded = reduce(folded, event)
    return folded


def curve(*values: float | None, name: str = "training") -> Series:
    return Series("Loss", name, tuple(enumerate(values, 1)))


def root(*series: Series) -> ElementTree.Element:
    return ElementTree.fromstring(svg(series))


def curves_in(picture: ElementTree.Element) -> list[str]:
    """The curves' paths; the legend's dashes come before each of them."""
    return [path.attrib["d"] for path in picture.iter(f"{NAMESPACE}path")][1::2]


def texts(picture: ElementTree.Element) -> list[str]:
    return [str(text.text) for text in picture.iter(f"{NAMESPACE}text")]


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


def test_the_curves_of_a_pair_method() -> None:
    run = state(
        step(1, 0.7, chosen_reward=0.1, rejected_reward=-0.1, margin=0.2, accuracy=0.5, nll=1.0),
        step(2, 0.6, chosen_reward=0.2, rejected_reward=-0.2, margin=0.4, accuracy=1.0, nll=0.9),
        Eval(attempt=1, step=2, rows=4, metrics={"loss": 0.65, "margin": 0.3, "accuracy": 0.75}),
    )
    found = {(each.panel, each.name): each.points for each in series_of(run)}
    assert found == {
        ("Loss", "training"): ((1, 0.7), (2, 0.6)),
        ("Loss", "held out"): ((2, 0.65),),
        ("Accuracy", "training"): ((1, 0.5), (2, 1.0)),
        ("Accuracy", "held out"): ((2, 0.75),),
        ("Margin of the rewards", "training"): ((1, 0.2), (2, 0.4)),
        ("Margin of the rewards", "held out"): ((2, 0.3),),
        ("Rewards", "chosen"): ((1, 0.1), (2, 0.2)),
        ("Rewards", "rejected"): ((1, -0.1), (2, -0.2)),
    }


def test_the_curves_of_grpo() -> None:
    run = state(rollout(0, 0.25), step(1, 0.0, kl=0.0), rollout(1, None), step(2, 0.01, kl=0.02))
    found = {(each.panel.split(" ")[0], each.name): each.points for each in series_of(run)}
    assert found[("Reward", "sampled")] == ((0, 0.25), (1, None))
    assert found[("KL", "training")] == ((1, 0.0), (2, 0.02))
    assert found[("Length", "mean")] == ((0, 4.5), (1, 4.5))


def test_a_run_that_has_not_begun_has_none() -> None:
    assert series_of(RunState()) == []
    assert series_of(state(step(1, None))) == []


def test_it_is_a_picture_by_itself() -> None:
    text = svg([curve(1, 2), curve(2, 1, name="held out"), Series("Margin", "a", ((1, 2.0),))])
    picture = ElementTree.fromstring(text)
    assert picture.tag == f"{NAMESPACE}svg"
    assert picture.attrib["viewBox"].split()[2:] == [picture.attrib["width"], picture.attrib["height"]]
    assert len(curves_in(picture)) == 3
    assert {"Loss", "Margin", "training", "held out"} <= set(texts(picture))
    assert not re.search(r"<script|href|url\(|@import|\son\w+=", text)


def test_up_is_more_and_right_is_later() -> None:
    (path,) = curves_in(root(curve(1.0, 3.0, 2.0)))
    first, second, third = points(path)
    assert first[0] < second[0] < third[0] <= WIDTH
    assert second[1] < third[1] < first[1], "the y axis of an SVG points down"
    assert math.isclose(third[1], (first[1] + second[1]) / 2, abs_tol=0.1)


def test_accuracy_is_shown_from_0_to_1() -> None:
    picture = root(Series("Accuracy", "training", ((1, 0.99), (2, 1.0))))
    assert {"0", "0.2", "1"} <= set(texts(picture))


def test_a_missing_value_is_a_gap() -> None:
    (path,) = curves_in(root(curve(1.0, 2.0, None, float("nan"), 3.0, float("inf"), 1.0, 2.0)))
    assert path.count("M") == 3
    assert len(points(path)) == 5
    assert re.search(r"M[\d.]+ [\d.]+h0M", path), "a value between two gaps is a dot"


@pytest.mark.parametrize("values", [(1.0,), (0.0,), (0.0, 0.0), (-5.0, -5.0), (1e-30, 2e-30), (1e30, -1e30)])
def test_values_of_any_size(values: tuple[float, ...]) -> None:
    picture = root(curve(*values))
    assert "nan" not in ElementTree.tostring(picture, encoding="unicode")
    for x, y in points(curves_in(picture)[0]):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= float(picture.attrib["height"])


def test_a_hundred_thousand_steps_lose_no_peak() -> None:
    values = [math.sin(at / 3000) for at in range(100_000)]
    values[77_777] = 9.0
    text = svg([curve(*values)])
    assert len(text) < 20_000
    (path,) = curves_in(ElementTree.fromstring(text))
    highest = min(y for _, y in points(path))
    assert [y for _, y in points(path)].count(highest) == 1
    assert highest == min(points(curves_in(root(curve(-1.0, 9.0)))[0]), key=lambda at: at[1])[1]


def test_texts_are_texts() -> None:
    hostile = '</text><script>alert("x")</script>&\x00\x1b'
    picture = root(Series(hostile, hostile, ((1, 1.0),)))
    assert [text for text in texts(picture) if "script" in text] == [hostile[:-2] + "  "] * 2
    assert not list(picture.iter(f"{NAMESPACE}script"))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0, 4, [0, 1, 2, 3, 4]),
        (-0.3, 0.31, [-0.2, 0, 0.2]),
        (17, 19, [17, 17.5, 18, 18.5, 19]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected
