"""Which curves a method has, and in which plot each is."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_align_tui.live.columns import Curves
from mlx_align_tui.widgets.curve import Line


@dataclass(frozen=True)
class Plot:
    """One plot, with (label, source, metric, colour) of each curve. An `extra` one needs a large screen."""

    name: str
    title: str
    curves: tuple[tuple[str, str, str, str], ...]
    extra: bool = False


def _both(name: str, title: str, key: str) -> Plot:
    """Training and held-out values of one metric."""
    return Plot(name, title, (("train", "train", key, "curve-1"), ("valid", "valid", key, "curve-2")))


EXTRA = (
    Plot("gradient", "gradient norm", (("train", "train", "grad_norm", "curve-4"),), extra=True),
    Plot("speed", "tokens/s", (("train", "train", "tokens/s", "curve-5"),), extra=True),
)
PAIRS = (
    _both("loss", "loss", "loss"),
    Plot(
        "rewards",
        "rewards",
        (
            ("chosen", "train", "chosen_reward", "curve-3"),
            ("rejected", "train", "rejected_reward", "curve-6"),
        ),
    ),
    _both("margin", "margin", "margin"),
    _both("accuracy", "accuracy", "accuracy"),
    *EXTRA,
)
SAMPLED = (
    Plot(
        "reward",
        "reward",
        (("sampled", "rollout", "reward", "curve-1"), ("valid", "valid", "reward", "curve-2")),
    ),
    Plot(
        "length",
        "length",
        (("sampled", "rollout", "length", "curve-1"), ("valid", "valid", "length", "curve-2")),
    ),
    Plot("kl", "KL", (("train", "train", "kl", "curve-3"),)),
    Plot("entropy", "entropy", (("train", "train", "entropy", "curve-4"),)),
    Plot(
        "shares",
        "shares",
        (("no signal", "rollout", "no_signal", "curve-6"), ("cut off", "rollout", "truncated", "curve-5")),
        extra=True,
    ),
    EXTRA[1],
)
COMPLETIONS = (_both("loss", "loss", "loss"), EXTRA[0])
PLOTS: dict[str, tuple[Plot, ...]] = {"grpo": SAMPLED, "sft": COMPLETIONS}
"""Method -> its plots; all others learn from pairs."""


def plots_of(method: str) -> tuple[Plot, ...]:
    """The plots of a method."""
    return PLOTS.get(method, PAIRS)


def lines_of(plot: Plot, curves: Curves) -> list[Line]:
    """The curves of a plot that there are."""
    return [
        Line(label, key, curves[source, key], colour, sparse=source == "valid")
        for label, source, key, colour in plot.curves
        if (source, key) in curves
    ]
