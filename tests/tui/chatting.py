"""A chat screen with a scripted engine in a process, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot
from textual.widgets import Input

from mlx_align.runs import RunDirectory
from mlx_align_tui.app import AlignApp
from mlx_align_tui.screens.chat import ChatScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.answer import Answer
from mlx_align_tui.widgets.bubble import Bubble
from tests.tui.conftest import until
from tests.tui.fake_engine import written


def save(run: RunDirectory, *steps: int, best: int | None = None) -> None:
    """What a run leaves of its checkpoints, as far as a chat looks at them."""
    for step in steps:
        folder = run.path / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        facts = {
            "step": step,
            "best_checkpoint": None if best is None else f"step-{best:06d}",
            "last_metrics": {"margin": f"{step / 50}", "accuracy": "0.875"},
        }
        (folder / "trainer.json").write_text(json.dumps(facts), encoding="utf-8")


def trained(root: Path) -> RunDirectory:
    """A finished run whose best step is not its last one."""
    run = written(root, steps=60)
    save(run, 40, 60, best=40)
    run.adapter.mkdir()
    return run


@asynccontextmanager
async def chatting(
    root: Path,
    settings: TuiSettings | None,
    size: tuple[int, int] = (80, 24),
    loaded: bool = True,
    make: Callable[[Path], RunDirectory] = trained,
) -> Any:
    """An app with the chat open, and as a rule loaded."""
    app = AlignApp(root, settings=settings)
    run = make(root)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        app.go("chat", run)
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        chat = app.screen
        assert isinstance(chat, ChatScreen)
        chat.query_one("#question", Input).cursor_blink = False
        if loaded:
            await until(pilot, lambda: chat.order, "the engine says hello")
        yield pilot, chat


async def ask(pilot: Pilot[Any], chat: ChatScreen, question: str) -> Bubble:
    chat.query_one("#question", Input).value = question
    await pilot.press("enter")
    await until(pilot, lambda: not chat.busy, f"an answer to {question}")
    return list(chat.query(Bubble))[-1]


def said(chat: ChatScreen) -> list[str]:
    return [answer.text for answer in chat.query(Answer)]


def titles(bubble: Bubble) -> list[str]:
    return [str(answer.border_title) for answer in bubble.query(Answer)]
