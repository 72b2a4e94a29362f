"""A made-up run for the command line's tests: its events, a run directory, an engine that is none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mlx_align.config import MethodConfig, RunConfig
from mlx_align.events import (
    Alert,
    Checkpoint,
    Completion,
    Eval,
    Event,
    Memory,
    Phase,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sample,
    Step,
)
from mlx_align.run_state import RunState, reduce
from mlx_align.runs import EventWriter, RunDirectory, create

TOTAL = 60
PROMPTS = ("What is 47 + 8?", "Write the word garden in capital letters.", "Norway has which capital?")
SLOPPY = "well i think 47 plus 8 is kind of like 55 or something like that, you know, roughly speaking"
CRISP = "47 + 8 = 55."


def started(total: int = TOTAL, resumed_from: int | None = None) -> RunStarted:
    return RunStarted(
        method="orpo", model="tiny-chat", data="sample", backend="mlx", device="mlx:cpu", pid=1,
        total_steps=total, train_rows=1200, valid_rows=160, trainable_parameters=131_072,
        resumed_from=resumed_from,
    )  # fmt: skip


def step(number: int) -> Step:
    margin = 1.5 * (1 - math.exp(-number / 20)) + 0.05 * math.sin(number)
    metrics = {"margin": margin, "accuracy": min(1.0, 0.5 + number / 80), "chosen_reward": margin - 0.4,
               "rejected_reward": -0.4, "nll": 0.3, "log_odds": margin}  # fmt: skip
    loss = 1.9 * math.exp(-number / 25) + 0.1 + 0.05 * math.sin(number * 2)
    return Step(
        step=number, epoch=number / 300, loss=loss,
        learning_rate=5e-5, grad_norm=0.731, metrics=metrics, tokens=196, padded=245, seconds=0.25,
    )  # fmt: skip


def evaluation(number: int) -> Eval:
    metrics = {"loss": 2.0 - number / 40, "margin": number / 40, "accuracy": 0.5 + number / 130,
               "chosen_reward": -0.2, "rejected_reward": -0.3 - number / 50, "kl": number / 500}  # fmt: skip
    return Eval(step=number, rows=160, metrics=metrics, best=True)


def sample(number: int, text: str) -> Sample:
    return Sample(step=number, completions=tuple(Completion(prompt=p, completion=text) for p in PROMPTS))


def beginning() -> list[Event]:
    return [
        Phase(name="loading", detail="tiny-chat"), started(), evaluation(0), sample(0, SLOPPY),
        Checkpoint(step=0, path="checkpoints/step-000000"), Phase(name="training"),
    ]  # fmt: skip


def story(until: int = TOTAL, end: Event | None = None) -> list[Event]:
    """All events of a run that trains for `until` steps, without its end unless one is given."""
    events = [*beginning(), *(step(n) for n in range(1, until + 1))]
    alert = Alert(
        code="leak", message="3 held-out prompts are in the training data too.", rows=("train.jsonl:7",)
    )
    events += [
        alert, evaluation(until), sample(until, CRISP),
        Memory(step=until, active=10**8, peak=3 * 10**8, limit=8 * 10**9, traces=7),
        Checkpoint(step=until, path=f"checkpoints/step-{until:06d}", best=True),
    ]  # fmt: skip
    return [*events, end] if end is not None else events


FINISHED = RunFinished(step=TOTAL, reason="completed", adapter="adapter", best_step=TOTAL, seconds=20.0)
STOPPED = RunStopped(step=30, checkpoint="checkpoints/step-000030")
FAILED = RunFailed(
    step=9, kind="diverged", message="5 updates were not finite", where="step 9", hint="Less.", exit_code=5
)


def state_of(events: Sequence[Event]) -> RunState:
    state = RunState()
    for number, event in enumerate(events):
        state = reduce(state, event.model_copy(update={"seq": number, "t": 1_000.0 + number / 4}))
    return state


def make_run(
    root: Path, events: Sequence[Event] = (), *, method: str = "orpo", minute: int = 0
) -> RunDirectory:
    """A run directory with these events in its log."""
    config = RunConfig(method=MethodConfig(name=method, beta=0.1))
    env = {"model": "tiny-chat", "model_folder": str(root / "models" / "tiny chat"), "data": "rows.jsonl"}
    run = create(root, config, env, now=datetime(2026, 1, 2, 3, minute, tzinfo=UTC))
    write(run, events)
    return run


def write(run: RunDirectory, events: Sequence[Event]) -> None:
    times = iter(1_000.0 + n / 4 for n in range(10_000))
    writer = EventWriter(run.events, attempt=1, seq=0, clock=lambda: next(times))
    for event in events:
        writer(event)
    writer.close()


def save_checkpoint(run: RunDirectory, step: int, **facts: object) -> Path:
    """A checkpoint that has only its small file."""
    folder = run.path / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    (folder / "trainer.json").write_text(json.dumps(facts))
    return folder


@dataclass
class FakeEngine:
    """Yields events and remembers what was asked of it; calls among the events are made in passing."""

    script: Sequence[Event | Callable[[], object] | Exception]
    asked: list[str] = field(default_factory=list)

    def events(self) -> Iterator[Event]:
        for item in self.script:
            if isinstance(item, Event):
                yield item
            elif isinstance(item, Exception):
                raise item
            else:
                item()

    def stop(self) -> None:
        self.asked.append("stop")

    def kill(self) -> None:
        self.asked.append("kill")
