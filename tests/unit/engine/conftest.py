from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlx_align.events import Event
from mlx_align.runs import EventWriter


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """An engine in this process takes over two signals; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def brief() -> dict[str, Any]:
    """Settings for the shortest run that still evaluates and saves, for `support.new_run`."""
    return {
        "train__steps": 2,
        "eval__rows": 2,
        "eval__samples": 0,
        "eval__every": 0,
        "adapter__modules": ["self_attn.q_proj", "self_attn.v_proj"],
    }


@pytest.fixture
def on_event(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Event], None]], None]:
    """Be called with every event of every run, in the engine, just after it is written."""

    def install(action: Callable[[Event], None]) -> None:
        write = EventWriter.__call__

        def watched(self: EventWriter, event: Event) -> None:
            write(self, event)
            action(event)

        monkeypatch.setattr(EventWriter, "__call__", watched)

    return install
