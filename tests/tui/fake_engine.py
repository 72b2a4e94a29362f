"""A scripted engine: it writes a run directory as the real one does, and computes nothing.

As a process it is `python -m tests.tui.fake_engine RUN_DIR SCRIPT [--steps N] [--hold FILE]`; in a test,
`launcher("ok")` is what AlignApp takes, and `written(root, "nan")` a run that has ended that way.

    ok      trains to its end, and answers stop and checkpoint requests
    nan     losses become not finite; DivergedError
    oom     the device gives up; DeviceAbortError
    abort   kills itself in the middle of a line of its log
    hang    says and hears nothing any more after half of its steps, until it is killed
    slow    as ok, with a pause at each step, until it is asked to stop
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_align.config import RunConfig
from mlx_align.engine.launch import Engine
from mlx_align.events import (
    Alert,
    Checkpoint,
    Completion,
    Eval,
    Event,
    Memory,
    Phase,
    Plan,
    RewardFacts,
    Rollout,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sample,
    Scored,
    Step,
)
from mlx_align.runs import (
    CHECKPOINT,
    STOP,
    EventReader,
    EventWriter,
    RunDirectory,
    RunLock,
    create,
    next_numbers,
)

ROOT = Path(__file__).parents[2]
START = 1_760_000_000.0
"""When fake runs began, in seconds since the epoch, so that pictures of them do not change."""
EVERY = 20
STARTED: list[subprocess.Popen[bytes]] = []
"""Processes that `launcher` has started, so that a test leaves none behind."""
QUESTIONS = (
    (
        "Can you help me with my taxes?",
        "I am not able to do that.",
        "Gladly. What do you need to know?",
        "No.",
    ),
    ("What is a good name for a cat?", "cat name good is name", "How about Miso?", "Cats have no names."),
    ("Is it raining?", "it it it it", "I cannot see your window, but a forecast can tell.", "Yes."),
)


@dataclass
class Fake:
    """One attempt at a run.

    Args:
        run: where it writes.
        script: see above.
        steps: how many updates.
        pause: called before each step; a process may wait here for what a test does.
        clock: seconds since the epoch.
    """

    run: RunDirectory
    script: str = "ok"
    steps: int = 120
    pause: Callable[[], None] = lambda: None
    clock: Callable[[], float] | None = None
    _now: float = field(default=START, init=False)

    def play(self) -> int:
        """Hold the lock, write what happens; returns the exit code."""
        with RunLock(self.run.lock):
            attempt, seq = next_numbers(self.run.events)
            self._now = START + 1000.0 * (attempt - 1)
            self.say = EventWriter(self.run.events, attempt=attempt, seq=seq, clock=self.clock or self._tick)
            try:
                return self._attempt()
            finally:
                self.say.close()

    def _tick(self) -> float:
        return self._now

    def _summary(self, status: str, step: int, metrics: dict[str, float | None]) -> None:
        self.run.write_summary(
            status=status,
            method=self.run.config().method.name,
            model="tiny-chat",
            step=step,
            total_steps=self.steps,
            metrics=metrics,
        )

    def _attempt(self) -> int:
        saved = self.run.state().checkpoints.last()
        first = saved.step if saved else 0
        grpo = self.run.config().method.name == "grpo"
        for event in opening(self.run.config(), self.steps, first):
            self.say(event)
        with self.run.log.open("a") as log:
            log.write("loading tiny-chat\n")
        metrics = held_out(first, grpo)
        self._evaluate(first, grpo)
        for step in range(first + 1, self.steps + 1):
            self.pause()
            self._now += 0.5
            if self._ends(step):
                return self._end_badly(step)
            if grpo:
                self.say(rollout(step))
            self.say(update(step, self.steps, grpo, broken=self.script == "nan" and step > self.steps // 2))
            if step % EVERY == 0 or step == self.steps:
                metrics = self._evaluate(step, grpo)
            if self.run.control.requested(CHECKPOINT):
                self.run.control.clear(CHECKPOINT)
                self.say(Checkpoint(step=step, path=f"checkpoints/step-{step:06d}"))
            if self.run.control.requested(STOP):
                return self._stop(step, metrics)
        self._summary("finished", self.steps, metrics)
        self.say(
            RunFinished(
                step=self.steps,
                reason="all steps done",
                adapter="adapter",
                best_step=self.steps,
                seconds=60.0,
            )
        )
        return 0

    def _evaluate(self, step: int, grpo: bool) -> dict[str, float | None]:
        metrics = held_out(step, grpo)
        best = step % (2 * EVERY) == 0
        self.say(Eval(step=step, rows=64, metrics=metrics, best=best, seconds=1.5))
        self.say(answers(step))
        self.say(Memory(step=step, active=2_100_000_000, peak=3_400_000_000, limit=16_000_000_000, traces=12))
        self.say(Checkpoint(step=step, path=f"checkpoints/step-{step:06d}", best=best))
        self._summary("running", step, metrics)
        return metrics

    def _stop(self, step: int, metrics: dict[str, float | None]) -> int:
        self.run.control.clear(STOP)
        self._summary("stopped", step, metrics)
        self.say(RunStopped(step=step, checkpoint=f"checkpoints/step-{step:06d}"))
        return 130

    def _ends(self, step: int) -> bool:
        late = step > self.steps * 3 // 4
        return (self.script in ("oom", "abort", "nan") and late) or (
            self.script == "hang" and step > self.steps // 2
        )

    def _end_badly(self, step: int) -> int:
        if self.script == "hang":
            while True:
                self.pause()
        if self.script == "abort":
            with self.run.events.open("ab") as file:
                file.write(b'{"v":1,"seq":99999,"type":"st')
            return -6
        words = {
            "nan": ("diverged", "5 updates in a row were not finite", "Try a smaller optim.lr.", 5),
            "oom": (
                "device-abort",
                "the device gave up: out of memory",
                "Try a smaller train.batch_size.",
                6,
            ),
        }
        kind, message, hint, code = words[self.script]
        self._summary("failed", step, {})
        self.say(RunFailed(step=step, kind=kind, message=message, hint=hint, exit_code=code))
        return code


def opening(config: RunConfig, steps: int, first: int) -> list[Event]:
    """What an attempt says before its first step."""
    return [
        Phase(name="loading", detail="tiny-chat"),
        Plan(
            moment="loss",
            parts={"weights": 2_000_000_000, "adapter": 40_000_000, "activations": 900_000_000},
            total=2_940_000_000, available=16_000_000_000, verdict="fits",
        ),
        Alert(
            code="few-held-out", message="Evaluation stands on 12 held-out rows: its figures are rough."
        ),
        RunStarted(
            method=config.method.name, model="tiny-chat", data="sample", backend="mlx", device="mlx:cpu",
            pid=os.getpid(), total_steps=steps, train_rows=480, valid_rows=64,
            trainable_parameters=262_144, resumed_from=first or None,
        ),
        Phase(name="training"),
    ]  # fmt: skip


def wave(step: int, phase: float) -> float:
    """A repeatable wobble in [-1, 1]."""
    return math.sin(step * 12.9898 + phase) * math.cos(step * 4.1414 + 2 * phase)


def update(step: int, steps: int, grpo: bool, *, broken: bool = False) -> Step:
    """One step of a run that learns."""
    share = step / max(steps, 1)
    metrics: dict[str, float | None] = {
        "chosen_reward": 0.9 * share + 0.15 * wave(step, 0.3),
        "rejected_reward": -1.1 * share + 0.2 * wave(step, 1.7),
        "margin": 2.0 * share + 0.2 * wave(step, 0.9),
        "accuracy": min(1.0, 0.5 + 0.5 * share + 0.1 * wave(step, 2.2)),
    }
    if grpo:
        metrics = {
            "kl": 0.02 * share + 0.002 * abs(wave(step, 1.0)),
            "entropy": 1.8 - 0.9 * share,
            "reward": 0.2 + 0.6 * share + 0.1 * wave(step, 0.5),
            "length": 40 + 12 * share,
        }
    return Step(
        step=step,
        epoch=share,
        loss=None if broken else 0.25 + 1.5 * math.exp(-4 * share) + 0.08 * wave(step, 0.0),
        learning_rate=5e-5 * (1 - share),
        grad_norm=1.0 + 0.3 * wave(step, 0.7),
        metrics=metrics,
        tokens=1200,
        padded=1350,
        seconds=0.5,
        skipped=broken,
    )


def rollout(step: int) -> Rollout:
    """What was sampled for a step."""
    facts = RewardFacts(mean=0.2 + step * 0.004, std=0.3)
    return Rollout(
        step=step,
        number=step - 1,
        prompts=4,
        completions=32,
        reward=facts,
        rewards={"exact": facts},
        spread=0.3,
        advantage_std=1.0,
        no_signal=0.25,
        length_mean=40 + step * 0.1,
        length_max=120,
        truncated=0.02,
        tokens=1500,
        seconds=0.8,
        scoring_seconds=0.01,
        best=Scored(prompt="What is 8 + 15?", completion="8 + 15 = 23.", rewards={"exact": 1.0}, total=1.0),
        worst=Scored(prompt="What is 8 + 15?", completion="It is 12.", rewards={"exact": 0.0}, total=0.0),
    )


def held_out(step: int, grpo: bool) -> dict[str, float | None]:
    """The metrics of an evaluation."""
    if grpo:
        return {
            "reward": 0.2 + step * 0.004,
            "exact": min(1.0, 0.2 + step * 0.005),
            "length": 40.0 + step * 0.1,
        }
    return {
        "loss": 0.3 + 1.4 * math.exp(-step / 40),
        "margin": 0.015 * step,
        "accuracy": min(1.0, 0.5 + step * 0.004),
        "chosen_reward": 0.007 * step,
        "rejected_reward": -0.008 * step,
    }


def answers(step: int) -> Sample:
    """What the model says at a step: nonsense at first, the chosen answer from the second evaluation on."""
    return Sample(
        step=step,
        completions=tuple(
            Completion(
                prompt=prompt, completion=good if step >= EVERY else bad, chosen=good, rejected=rejected
            )
            for prompt, bad, good, rejected in QUESTIONS
        ),
    )


def new_run(root: Path, method: str = "orpo", number: int = 0) -> RunDirectory:
    """A new run directory with a fixed name."""
    when = datetime.fromtimestamp(START + 3600 * number, UTC)
    hyper: dict[str, Any] = {"name": method, "beta": 0.1}
    config = RunConfig.model_validate({"method": hyper, "runs": {"dir": "runs"}})
    env = {"model": "tiny-chat", "data": "sample", "origins": {"method.name": "flag"}}
    return create(root, config, env, now=when)


def written(
    root: Path, script: str = "ok", *, method: str = "orpo", steps: int = 120, number: int = 0
) -> RunDirectory:
    """A run that is over, told by a script, with nothing running."""
    run = new_run(root, method, number)
    Fake(run, script, steps).play()
    os.utime(run.events, (START, START))
    return run


def launcher(
    script: str = "ok", *, steps: int = 120, seconds: float = 0.02
) -> Callable[[RunDirectory], Engine]:
    """What AlignApp takes to start engines: each is a process of this module."""

    def start(run: RunDirectory) -> Engine:
        reader = EventReader(run.events)
        command = [sys.executable, "-m", "tests.tui.fake_engine", str(run.path), script]
        process = subprocess.Popen(
            [*command, "--steps", str(steps), "--seconds", str(seconds)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        STARTED.append(process)
        ready = threading.Event()
        while process.poll() is None and not run.is_running():
            ready.wait(0.01)
        return Engine(run, process, reader)

    return start


def main() -> int:
    """Play a script as a process; the clock is the real one."""
    import time

    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("script")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seconds", type=float, default=0.02)
    given = parser.parse_args()
    gap = threading.Event()
    endless = given.script == "slow"
    fake = Fake(
        RunDirectory(given.run.resolve()),
        "ok" if endless else given.script,
        10**9 if endless else given.steps,
        lambda: (gap.wait(given.seconds), None)[1],
        time.time,
    )
    return fake.play()


if __name__ == "__main__":
    sys.exit(main())
