"""Runs and words that are hard to show: long, wide, combined, from right to left, hostile, or not there."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_align.config import RunConfig
from mlx_align.events import (
    Alert,
    Checkpoint,
    Completion,
    Event,
    RunFailed,
    RunStarted,
    Sample,
    Step,
)
from mlx_align.runs import EventWriter, RunDirectory, create
from tests.tui.fake_engine import START, update

LONG = "a word " * 60
UNBROKEN = "Donaudampfschifffahrtsgesellschaft" * 6
MODEL = "/Users/somebody-with-a-long-name/models/mlx-community/Qwen3-Coder-480B-A35B-Instruct-4bit-DWQ-v2"
DATA = "/Users/somebody-with-a-long-name/data/数据集/偏好对-第三版-已经清理过-包括所有语言-最终版本.jsonl"
WIDE = "你好，世界！请用中文回答：什么是强化学习？" * 4
JOINED = "👩‍👩‍👧‍👦🏳️‍🌈👍🏽 e\u0301a\u0308o\u0302 नमस्ते ก็"
RIGHT_TO_LEFT = "مرحبا بالعالم، كيف حالك؟ שלום עולם"
HOSTILE = "\x1b[31mred\x1b[0m \x07 [bold]not markup[/bold] [/] [@click=app.quit()]x[/]"
ALL = (LONG, UNBROKEN, WIDE, JOINED, RIGHT_TO_LEFT, HOSTILE)


def write(
    root: Path, events: list[Event], *, number: int = 0, method: str = "orpo", **env: Any
) -> RunDirectory:
    """A run with these events, nothing running."""
    hyper: dict[str, Any] = {"name": method, "beta": 0.1}
    config = RunConfig.model_validate({"method": hyper, "model": {"path": MODEL}, "runs": {"dir": "runs"}})
    when = datetime.fromtimestamp(START + 3600 * number, UTC)
    run = create(root, config, {"model": MODEL, "data": DATA, "origins": {}, **env}, now=when)
    say = EventWriter(run.events, attempt=1, seq=0, clock=lambda: START)
    for event in events:
        say(event)
    say.close()
    status = "failed" if any(isinstance(event, RunFailed) for event in events) else "new"
    run.write_summary(status=status, method=method, model=MODEL, step=1, total_steps=10**6, metrics={})
    run.log.write_text("\n".join(ALL) + "\n", encoding="utf-8")
    os.utime(run.events, (START, START))
    return run


def started(method: str = "orpo", total: int = 1_000_000) -> Event:
    """The first words of a run with long names."""
    return RunStarted(
        method=method, model=MODEL, data=DATA, backend="mlx", device="mlx:gpu Apple M4 Ultra Max Pro 2026",
        pid=1, total_steps=total, train_rows=10**7, valid_rows=0, trainable_parameters=10**9,
    )  # fmt: skip


def samples(step: int) -> Event:
    """What a model said, in all kinds of writing."""
    return Sample(
        step=step,
        completions=tuple(
            Completion(prompt=text, completion=f"{step} {text}", chosen=text, rejected=text) for text in ALL
        ),
    )


def failed(root: Path, number: int = 0) -> RunDirectory:
    """A run that failed with a message that is far too long."""
    bad = RunFailed(step=1, kind="oops", message=f"{UNBROKEN} {LONG}", hint=LONG + WIDE, exit_code=1)
    alerts: list[Event] = [Alert(code=f"code-{n}", message=text) for n, text in enumerate(ALL)]
    return write(root, [*alerts, started(), samples(0), update(1, 10, False), samples(1), bad], number=number)


def one_step(root: Path, number: int = 0) -> RunDirectory:
    """A run with one update and no evaluation."""
    return write(root, [started(total=1), update(1, 1, False)], number=number)


def huge(root: Path, number: int = 0) -> RunDirectory:
    """A run whose numbers are as long as numbers get, and some of them are none."""
    metrics = {
        "margin": -1.234567e-12,
        "accuracy": None,
        "chosen_reward": 9.87e20,
        "rejected_reward": -9.9e20,
    }
    steps: list[Event] = [
        Step(
            step=step, epoch=1.0, loss=1e30 if step % 2 else None, learning_rate=1e-9, grad_norm=1e20,
            metrics=metrics, tokens=10**9, padded=10**9, seconds=0.001, skipped=step % 2 == 0,
        )
        for step in range(999_990, 1_000_000)
    ]  # fmt: skip
    return write(root, [started(), *steps, Checkpoint(step=10**6, path="x" * 200)], number=number)


def silent(root: Path, number: int = 0) -> RunDirectory:
    """A run that has said nothing yet."""
    return write(root, [], number=number)
