"""What a run's events amount to: a frozen state, and the pure functions that fold events into it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, cast, overload

from mlx_align.events import (
    Alert,
    Checkpoint,
    Eval,
    Event,
    Memory,
    Number,
    Phase,
    Plan,
    Rollout,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sample,
    Step,
)
from mlx_align.packed import PackedSteps

T = TypeVar("T")


class Store(Protocol[T]):
    """What a history keeps its items in: a list, or something that grows as one."""

    def extend(self, more: Sequence[T], /) -> None:
        """Add items."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[T]: ...
    @overload
    def __getitem__(self, place: int, /) -> T: ...
    @overload
    def __getitem__(self, place: slice, /) -> Store[T]: ...


@dataclass(frozen=True, eq=False)
class History(Generic[T]):
    """An append-only sequence that old and new states share, so that folding n events costs O(n)."""

    _items: Store[T] = field(default_factory=list)
    _length: int = 0

    def extend(self, more: Sequence[T]) -> Self:
        """A history with more items at its end; this one does not change."""
        if not more:
            return self
        items = self._items if self._length == len(self._items) else self._items[: self._length]
        items.extend(more)
        return type(self)(items, self._length + len(more))

    def continues(self, earlier: History[T]) -> bool:
        """Whether it begins with all that an earlier one has. Told by what they share, not by the items."""
        return not earlier or (self._items is earlier._items and len(self) >= len(earlier))

    def since(self, start: int) -> list[T]:
        """The items from a place on."""
        return list(self._items[start : self._length])

    def last(self) -> T | None:
        """The newest item, or None."""
        return self._items[self._length - 1] if self._length else None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return iter(self.since(0))

    def __getitem__(self, index: int) -> T:
        return self._items[range(self._length)[index]]  # range refuses what was appended since

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self.since(0) == other.since(0)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Steps(History[Step]):
    """The updates of a run. There may be very many, so their values are kept as columns of numbers."""

    _items: PackedSteps = field(default_factory=PackedSteps)

    def column(self, name: str, start: int = 0) -> list[Any]:
        """A field's values from a place on; None where the number was not finite."""
        return self._items.column(name, slice(start, self._length))

    def metric(self, name: str, start: int = 0) -> list[Number]:
        """A metric's values from a place on; None where it was not finite, or not measured."""
        return self._items.metric(name, slice(start, self._length))

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics, perhaps with some that only later updates have."""
        return self._items.metrics

    def until(self, step: int) -> Steps:
        """The updates up to this one."""
        items = self._items[: self._length].chosen([each <= step for each in self.column("step")])
        return Steps(items, len(items))


Status = Literal["new", "running", "finished", "stopped", "failed"]
End = RunFinished | RunStopped | RunFailed
ENDS: dict[type[Event], Status] = {RunFinished: "finished", RunStopped: "stopped", RunFailed: "failed"}
"""How an attempt ends, and what the run is then."""


@dataclass(frozen=True)
class RunState:
    """All that a screen shows of a run, folded from its events."""

    status: Status = "new"
    attempt: int = 0
    started: RunStarted | None = None
    first_t: float = 0.0
    last_t: float = 0.0
    phase: Phase | None = None
    step: int = 0
    steps: Steps = field(default_factory=Steps)
    rollouts: History[Rollout] = field(default_factory=History)
    evals: History[Eval] = field(default_factory=History)
    samples: History[Sample] = field(default_factory=History)
    checkpoints: History[Checkpoint] = field(default_factory=History)
    alerts: History[Alert] = field(default_factory=History)
    memory: Memory | None = None
    plan: Plan | None = None
    end: End | None = None

    @property
    def best(self) -> Eval | None:
        """The best evaluation so far."""
        return next((e for e in reversed(list(self.evals)) if e.best), None)


def reduce(state: RunState, event: Event) -> RunState:
    """The state after one more event. Pure: the old state stays what it was.

    A new attempt that resumes from step s forgets what came after s, and one that begins anew forgets all:
    it is about to happen again.
    """
    return _reduce_part(state, (event,))


def reduce_all(state: RunState, events: Iterable[Event]) -> RunState:
    """The state after more events, as `reduce` says it one by one, without the states between."""
    for part in _parts(events):
        state = _reduce_part(state, part)
    return state


def _parts(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Events of one attempt each; a start, which takes things back, begins a part."""
    part: list[Event] = []
    for event in events:
        if part and (event.attempt != part[0].attempt or type(event) is RunStarted):
            yield part
            part = []
        part.append(event)
    if part:
        yield part


class _Kinds:
    """A part's events by their type; between types their order does not matter."""

    def __init__(self, part: Sequence[Event]) -> None:
        self._of: defaultdict[type[Event], list[Event]] = defaultdict(list)
        for event in part:
            self._of[type(event)].append(event)

    def all(self, kind: type[T]) -> list[T]:
        return cast("list[T]", self._of.get(cast("type[Event]", kind), []))

    def last(self, kind: type[T]) -> T | None:
        found = self.all(kind)
        return found[-1] if found else None


def _reduce_part(state: RunState, part: Sequence[Event]) -> RunState:
    kinds, attempt = _Kinds(part), part[0].attempt
    if attempt > state.attempt:  # until it says how it ends, an attempt counts as running
        state = replace(state, status="running", end=None)
    start = kinds.last(RunStarted)
    if start is not None:
        state = _start(state, start)
    end = next((event for event in reversed(part) if type(event) in ENDS), None)
    step = kinds.last(Step)
    return replace(
        state,
        status=state.status if end is None else ENDS[type(end)],
        attempt=attempt,
        first_t=state.first_t if state.attempt else part[0].t,
        last_t=part[-1].t,
        phase=kinds.last(Phase) or state.phase,
        step=state.step if step is None else step.step,
        steps=state.steps.extend(kinds.all(Step)),
        rollouts=_sampled(state.rollouts, kinds.all(Rollout)),
        evals=state.evals.extend(kinds.all(Eval)),
        samples=state.samples.extend(kinds.all(Sample)),
        checkpoints=state.checkpoints.extend(kinds.all(Checkpoint)),
        alerts=state.alerts.extend(kinds.all(Alert)),
        memory=kinds.last(Memory) or state.memory,
        plan=kinds.last(Plan) or state.plan,
        end=state.end if end is None else cast("End", end),
    )


def _sampled(known: History[Rollout], rollouts: Sequence[Rollout]) -> History[Rollout]:
    """A resume may sample a rollout anew that it did not begin to train on: the newer one counts."""
    for rollout in rollouts:
        newest = known.last()
        if newest is not None and newest.number >= rollout.number:
            known = History[Rollout]().extend([r for r in known if r.number < rollout.number])
        known = known.extend((rollout,))
    return known


StepLike = TypeVar("StepLike", Rollout, Eval, Sample, Checkpoint)


def _until(history: History[StepLike], step: int) -> History[StepLike]:
    return History[StepLike]().extend([item for item in history if item.step <= step])


def _start(state: RunState, event: RunStarted) -> RunState:
    kept = -1 if event.resumed_from is None else event.resumed_from
    # An attempt looks at its data before it announces itself: what it said about it stays.
    alerts = [alert for alert in state.alerts if alert.attempt == event.attempt or alert.step <= kept]
    return replace(
        state,
        status="running",
        started=event,
        end=None,
        phase=None,
        step=max(kept, 0),
        steps=state.steps.until(kept),
        rollouts=_until(state.rollouts, kept + 1),
        evals=_until(state.evals, kept),
        samples=_until(state.samples, kept),
        checkpoints=_until(state.checkpoints, kept),
        alerts=History[Alert]().extend(alerts),
    )
