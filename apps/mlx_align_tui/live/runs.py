"""The list of runs: what a table shows of each, cheap to ask again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_align.errors import AlignError
from mlx_align.run_state import RunState
from mlx_align.runs import RunDirectory, list_runs
from mlx_align_cli.display.facts import course, shown_eval
from mlx_align_cli.display.text import metric
from mlx_align_tui.live.following import Follower

BUDGET = 20_000
"""Events that one look at the runs may read in all: the newest runs first, the others a look later."""
COURSE = 400
"""Values kept of a run's course, for its sparkline."""
HEADLINES = ("margin", "reward", "exact", "loss")
"""The metric that says most about a run is the first of these that it has."""


@dataclass(frozen=True)
class Entry:
    """One run as the table shows it. `problem` says why it cannot be read; the rest is then empty."""

    run: RunDirectory
    method: str = ""
    model: str = ""
    data: str = ""
    condition: str = "new"
    step: int = 0
    total_steps: int = 0
    headline: tuple[str, float | None] | None = None
    course: tuple[float | None, ...] = ()
    changed: float = 0.0
    problem: str | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def steps_text(self) -> str:
        """Step and steps, such as 120/600."""
        return f"{self.step:,}/{self.total_steps:,}" if self.total_steps else f"{self.step:,}"

    @property
    def headline_text(self) -> str:
        """The metric that says most, with its name."""
        return f"{self.headline[0]} {metric(*self.headline)}" if self.headline else ""

    def matches(self, text: str) -> bool:
        """Whether every word of a filter is somewhere in the row."""
        row = " ".join((self.name, self.method, self.model, self.data, self.condition)).lower()
        return all(word in row for word in text.lower().split())


@dataclass
class _Watched:
    follower: Follower | None
    facts: Mapping[str, Any]
    entry: Entry
    stamp: tuple[int, int] = (-1, -1)


@dataclass
class Index:
    """All runs below a folder. It belongs to one thread; the entries it gives away may go anywhere.

    A run whose engine has ended is folded once and then kept as an entry only.
    """

    root: Path
    _watched: dict[str, _Watched] = field(default_factory=dict)

    def poll(self, budget: int = BUDGET) -> list[Entry]:
        """All runs as they are now, newest first."""
        runs = list_runs(self.root)
        names = {run.name for run in runs}
        for gone in set(self._watched) - names:
            del self._watched[gone]
        entries = []
        for run in runs:
            entry, used = self._look(run, budget)
            budget = max(0, budget - used)
            entries.append(entry)
        return entries

    def _look(self, run: RunDirectory, budget: int) -> tuple[Entry, int]:
        try:
            return self._read(run, budget)
        except Exception as error:  # whatever a strange file provokes, the other runs are shown
            message = error.message if isinstance(error, AlignError) else str(error)
            return Entry(run, condition="unreadable", problem=message), 0

    def _read(self, run: RunDirectory, budget: int) -> tuple[Entry, int]:
        stamp, running = _stamp(run), run.is_running()
        watched = self._watched.get(run.name)
        if watched is None:
            facts = {**run.env(), **run.summary()}
            watched = _Watched(Follower(run), facts, _from_summary(run, facts))
            self._watched[run.name] = watched
        elif stamp == watched.stamp and running == (watched.entry.condition == "running"):
            return watched.entry, 0
        if not budget:
            return watched.entry, 0
        follower = watched.follower or Follower(run)
        progress = follower.poll(budget)
        used = progress.count if progress else 0
        more = progress is not None and progress.more
        condition = "running" if running else progress.condition if progress else watched.entry.condition
        watched.entry = _from_state(run, follower.state, watched.facts, condition)
        watched.follower = follower if running or more else None
        watched.stamp = (-1, -1) if more else stamp
        return watched.entry, used


def _stamp(run: RunDirectory) -> tuple[int, int]:
    """What changes when the log does: its size and its time."""
    try:
        facts = run.events.stat()
    except FileNotFoundError:
        return (0, 0)
    return (facts.st_size, facts.st_mtime_ns)


def _changed(run: RunDirectory) -> float:
    return (run.events if run.events.exists() else run.path).stat().st_mtime


def _from_summary(run: RunDirectory, facts: Mapping[str, Any]) -> Entry:
    return Entry(
        run,
        method=str(facts.get("method") or ""),
        model=str(facts.get("model") or ""),
        data=_short(str(facts.get("data") or "")),
        condition=str(facts.get("status") or "new"),
        step=int(facts.get("step") or 0),
        total_steps=int(facts.get("total_steps") or 0),
        headline=_headline(facts.get("metrics") or {}),
        changed=_changed(run),
    )


def _from_state(run: RunDirectory, state: RunState, facts: Mapping[str, Any], condition: str) -> Entry:
    entry = _from_summary(run, facts)
    started, newest = state.started, shown_eval(state)
    headline = _headline(newest.metrics) if newest else entry.headline
    return Entry(
        run,
        method=started.method if started else entry.method,
        model=started.model if started else entry.model,
        data=_short(started.data) if started else entry.data,
        condition=condition,
        step=state.step,
        total_steps=started.total_steps if started else entry.total_steps,
        headline=headline,
        course=_course(state, headline[0] if headline else "loss"),
        changed=entry.changed,
    )


def _course(state: RunState, key: str) -> tuple[float | None, ...]:
    values = course(state.steps, key)
    return tuple(values[:: max(1, len(values) // COURSE)])


def _headline(metrics: Mapping[str, float | None]) -> tuple[str, float | None] | None:
    key = next((key for key in HEADLINES if metrics.get(key) is not None), None)
    return None if key is None else (key, metrics[key])


def _short(data: str) -> str:
    return Path(data).name or data
