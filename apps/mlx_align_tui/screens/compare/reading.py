"""What is compared: each run's state, curves and configuration, read in a thread of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_align.errors import AlignError
from mlx_align.run_state import RunState
from mlx_align.runs import RunDirectory
from mlx_align.settings import flatten
from mlx_align_cli.display.facts import LABELS, labels
from mlx_align_tui.live.columns import Columns, Curves
from mlx_align_tui.live.following import Follower

POLL_SECONDS = 1.0
SOURCES = {"valid": "held out", "train": "training", "rollout": "sampled"}
"""Where a curve comes from, and what that is called."""
FIRST = ("margin", "reward", "accuracy", "exact", "loss")
"""The measures that are looked at first where all runs have them."""


@dataclass(frozen=True)
class Side:
    """One of the runs. `letter` is what it is called on the screen; `problem` says why it cannot be read now:
    the rest is then as it was read last. `more`: there is more to be read.
    """

    letter: str
    run: RunDirectory
    state: RunState = field(default_factory=RunState)
    condition: str = "new"
    curves: Curves = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    more: bool = False

    @property
    def method(self) -> str:
        """The method it is trained by, "" if that cannot be read."""
        return str(self.config.get("method.name", ""))


class Reader:
    """Reads runs as they grow. It belongs to one thread.

    Args:
        runs: the runs, in the order of their letters.
    """

    def __init__(self, runs: Sequence[RunDirectory]) -> None:
        self._runs = list(runs)
        self._followers = [Follower(run) for run in runs]
        self._columns = [Columns() for _ in runs]
        self._sides = [Side(letter_of(number), run) for number, run in enumerate(runs)]

    def read(self) -> tuple[list[Side], bool]:
        """All runs as they are now, and whether anything is new."""
        found = [self._one(number) for number in range(len(self._runs))]
        news = any(new is not old for new, old in zip(found, self._sides, strict=True))
        self._sides = found
        return found, news

    def _one(self, number: int) -> Side:
        old = self._sides[number]
        try:
            return self._follow(number, old)
        except (AlignError, OSError) as error:
            problem = error.message if isinstance(error, AlignError) else str(error)
            return old if old.problem == problem else replace(old, problem=problem, more=False)

    def _follow(self, number: int, old: Side) -> Side:
        run, columns = self._runs[number], self._columns[number]
        config = old.config or flatten(run.config().model_dump(mode="json"))
        env = old.env or run.env()
        progress = self._followers[number].poll()
        if progress is None:
            return replace(old, problem=None, more=False) if old.problem or old.more else old
        columns.follow(progress.state)
        state, condition = progress.state, progress.condition
        return Side(old.letter, run, state, condition, columns.curves(), config, env, more=progress.more)


def letter_of(number: int) -> str:
    """A, B, ... Z, then A2 and so on."""
    letter = chr(ord("A") + number % 26)
    return letter if number < 26 else f"{letter}{number // 26 + 1}"


def follow(
    runs: Sequence[RunDirectory], tell: Callable[[list[Side]], object], wait: Callable[[float], bool]
) -> None:
    """Read runs until told to end.

    Args:
        runs: the runs.
        tell: called with all of them whenever one has news, from this thread.
        wait: waits for so many seconds, True if this is to end.
    """
    reader = Reader(runs)
    told = False
    while True:
        sides, news = reader.read()
        if news or not told:
            told = True
            tell(sides)
        if wait(0.0 if any(side.more for side in sides) else POLL_SECONDS):
            return


Measure = tuple[str, str]
"""(source, metric), as curves are named by."""


def title_of(measure: Measure) -> str:
    """What a measure is called, such as "margin, held out"."""
    source, key = measure
    return f"{LABELS.get(key, key.replace('_', ' '))}, {SOURCES[source]}"


def measures_of(sides: Sequence[Side]) -> list[Measure]:
    """All measures that can be drawn: those that more runs have come first, then those that say most."""
    counted = Counter(measure for side in sides for measure in side.curves)
    known = list(labels(key for _, key in counted))

    def place(measure: Measure) -> tuple[int, int, int, str]:
        source, key = measure
        first = (
            FIRST.index(key)
            if key in FIRST
            else len(FIRST) + (known.index(key) if key in known else len(known))
        )
        return (-counted[measure], first, list(SOURCES).index(source), key)

    return sorted(counted, key=place)
