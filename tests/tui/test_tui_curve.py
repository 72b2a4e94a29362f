"""What a plot draws of a long series: few points, and none that matters is lost."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_align_tui.live.columns import Series
from mlx_align_tui.widgets.canvas import ThinCanvas
from mlx_align_tui.widgets.curve import Line, View, extent, points
from mlx_align_tui.widgets.plotting import (
    decimate,
    limits,
    log_labels,
    log_ticks,
    nice_ticks,
    smooth,
    tick_labels,
    time_labels,
    time_ticks,
    value_at,
)

RNG = np.random.default_rng(0)


def test_decimating_keeps_extremes_and_order() -> None:
    x = np.arange(100_000.0)
    y = RNG.normal(size=x.size)
    y[12_345], y[77_777] = 50.0, -50.0
    dx, dy = decimate(x, y, 60)
    assert len(dx) <= 120
    assert 50.0 in dy
    assert -50.0 in dy
    assert np.all(np.diff(dx) > 0)
    lookup = dict(zip(x, y, strict=True))
    assert all(lookup[a] == b for a, b in zip(dx, dy, strict=True)), "a drawn point is a measured one"


def test_every_column_has_its_own_lowest_and_highest_point() -> None:
    x, y = np.arange(1000.0), RNG.normal(size=1000)
    dx, dy = decimate(x, y, 10)
    for column in range(10):
        here = (x >= column * 99.9) & (x < (column + 1) * 99.9) if column < 9 else x >= 899.1
        drawn = dy[np.isin(dx, x[here])]
        assert drawn.min() == y[here].min()
        assert drawn.max() == y[here].max()


def test_what_is_not_finite_is_left_out() -> None:
    x = np.arange(10_000.0)
    y = np.where(x % 3 == 0, np.nan, np.where(x % 3 == 1, np.inf, x))
    dx, dy = decimate(x, y, 50)
    assert np.all(np.isfinite(dy))
    assert len(dx) <= 100
    nothing, _ = decimate(x, np.full(x.size, np.nan), 50)
    assert len(nothing) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_a_short_series_is_drawn_as_it_is(count: int) -> None:
    x, y = np.arange(float(count)), np.arange(float(count)) ** 2
    dx, dy = decimate(x, y, 50)
    assert dx.tolist() == x.tolist()
    assert dy.tolist() == y.tolist()


def test_all_points_at_one_place() -> None:
    dx, dy = decimate(np.full(500, 3.0), np.arange(500.0), 20)
    assert sorted(dy.tolist()) == [0.0, 499.0]
    assert set(dx) == {3.0}


def test_smoothing_is_the_mean_of_the_last_values() -> None:
    y = RNG.normal(size=200)
    y[50] = np.nan
    means = smooth(y, 10)
    for index in (0, 5, 55, 199):
        part = y[max(0, index - 9) : index + 1]
        assert means[index] == pytest.approx(np.nanmean(part))
    assert np.isnan(means[50])
    assert smooth(y, 1) is y


@pytest.mark.parametrize("window", [2, 10, 25, 1000])
def test_a_huge_value_spoils_no_mean_that_it_is_not_in(window: int) -> None:
    y = np.full(3000, 0.5)
    y[100], y[200] = 1e18, np.nan
    means = smooth(y, window)
    assert means[99] == 0.5
    assert means[100] > 1e14
    assert means[100 + window :] == pytest.approx(
        np.where(np.isnan(y), np.nan, 0.5)[100 + window :], nan_ok=True
    )


def test_a_zoomed_curve_is_smoothed_as_the_whole_is() -> None:
    x, y = np.arange(1000.0), RNG.normal(size=1000)
    line, view = Line("train", "loss", Series(x, x, y), "curve-1"), View(smoothing=50)
    ((zx, zy),) = points(line, view, (500.0, 520.0), 200)
    assert zx[0] <= 500 <= 520 <= zx[-1]
    assert zy == pytest.approx(smooth(y, 50)[zx.astype(int)])


def test_a_logarithmic_scale_leaves_out_what_has_no_logarithm() -> None:
    x = np.arange(4.0)
    line = Line("train", "loss", Series(x, x, np.array([100.0, 0.0, -1.0, 10.0])), "curve-1")
    parts = points(line, View(log_scale=True), (0.0, 3.0), 50)
    assert [(x.tolist(), y.tolist()) for x, y in parts] == [([0.0], [2.0]), ([3.0], [1.0])]


@pytest.mark.parametrize("smoothing", [1, 50])
@pytest.mark.parametrize("count", [300, 100_000])
def test_no_line_lies_over_a_gap(count: int, smoothing: int) -> None:
    x, y = np.arange(float(count)), RNG.normal(size=count)
    first, last = count // 3, count // 2
    y[first:last] = np.nan
    y[count // 4 :: 1000] = np.nan  # gaps that are too narrow to be seen, when there are many points
    line = Line("train", "loss", Series(x, x, y), "curve-1")
    parts = points(line, View(smoothing=smoothing), (0.0, float(count)), 60)
    column = count / 60
    assert not any(dx[0] < first <= dx[-1] for dx, _ in parts), "a part ends where the gap begins"
    assert any(first - 2 * column <= dx[-1] < first for dx, _ in parts)
    assert any(last <= dx[0] <= last + 2 * column for dx, _ in parts)
    if count > 300:
        assert len(parts) == 2
    nothing = Line("train", "loss", Series(x, x, np.full(count, np.nan)), "curve-1")
    assert points(nothing, View(), (0.0, float(count)), 60) == []
    assert points(line, View(zoom=(first + 2.0, last - 2.0)), (first + 2.0, last - 2.0), 60) == []


def test_the_cursor_tells_the_nearest_value() -> None:
    x, y = np.array([0.0, 10.0, 20.0]), np.array([1.0, 2.0, np.nan])
    assert value_at(x, y, 4.0) == 1.0
    assert value_at(x, y, 6.0) == 2.0
    assert value_at(x, y, 100.0) is None
    assert value_at(np.array([]), np.array([]), 0.0) is None


def test_zooming_stays_inside_and_ends_at_the_whole() -> None:
    whole, view = (0.0, 100.0), View(cursor=90.0)
    closer = view.zoomed(whole, 0.5)
    assert closer.zoom == pytest.approx((45.0, 95.0))
    assert closer.zoomed(whole, 2.0).zoom is None
    for _ in range(5):
        closer = closer.zoomed(whole, 0.5)
        low, high = closer.zoom or whole
        assert 0 <= low <= 90 <= high <= 100
    assert View().smoother(1).smoothing == 5
    assert View().smoother(-1).smoothing == 1
    assert View(smoothing=1000).smoother(1).smoothing == 1000


def test_the_range_of_all_curves() -> None:
    short = Line("a", "a", Series(np.array([5.0]), np.array([1.0]), np.array([1.0])), "curve-1")
    none = Line("b", "b", Series(np.array([]), np.array([]), np.array([])), "curve-1")
    assert extent([none], View()) is None
    assert extent([short, none], View()) == (5.0, 6.0)
    assert extent([short], View(axis="time")) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("low", "high", "count"),
    [(0, 400, 3), (-1.2, 1.1, 3), (0.2, 0.9, 4), (1e-9, 3e-9, 5), (0, 123_456, 6), (5.0, 5.01, 3)],
)
def test_ticks_are_few_inside_and_told_apart(low: float, high: float, count: int) -> None:
    for find, say in ((nice_ticks, tick_labels), (time_ticks, time_labels)):
        ticks = find(low, high, count)
        assert len(ticks) <= count
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
        if find is nice_ticks:
            labels = say(ticks)
            assert len(set(labels)) == len(labels)
            assert all(len(label) <= 6 for label in labels)


def test_ticks_of_a_flat_or_endless_range() -> None:
    assert nice_ticks(1.0, 1.0, 5) == []
    assert nice_ticks(0.0, float("inf"), 5) == []
    assert limits([np.array([2.0, 2.0])])[0] < 2.0 < limits([np.array([2.0])])[1]
    assert limits([np.array([np.nan])]) == (0.0, 1.0)


@pytest.mark.parametrize("bounds", [(-3.0, 3.0), (-0.9, 0.4), (0.1, 0.12), (-30.0, 30.0), (3.2, 3.5)])
def test_logarithmic_ticks(bounds: tuple[float, float]) -> None:
    ticks = log_ticks(*bounds, 5)
    assert 1 <= len(ticks) <= 5
    assert all(bounds[0] - 1e-9 <= tick <= bounds[1] + 1e-9 for tick in ticks)
    labels = log_labels(ticks)
    assert len(set(labels)) == len(labels)


def test_round_times() -> None:
    assert time_labels(time_ticks(0.0, 200.0, 4)) == ["0:00", "1:00", "2:00", "3:00"]


def test_curves_that_cross_keep_their_dots() -> None:
    canvas = ThinCanvas(4, 2)
    canvas.set_pixel(1, 1, "⡇", "red")
    canvas.set_pixel(1, 1, "⢸", "blue")
    assert canvas.get_pixel(1, 1) == ("⣿", "blue")
    canvas.set_pixel(1, 1, "│", "white")
    assert canvas.get_pixel(1, 1) == ("│", "white")
    canvas.set_pixel(9, 9, "⡇", "red")  # outside: nothing happens
