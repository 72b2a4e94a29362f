"""Shared by all tests: OpenBLAS before anyone imports mlx, and a clean environment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import mlx_align.backends.mlx  # noqa: F401  (loads OpenBLAS before mlx)
from mlx_align.events import Event
from mlx_align.runs import EventWriter

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _usual_signals() -> None:
    """An engine that ran in this process has left its handlers; a shell or nohup may ignore some signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads a person's own configuration or cache, and none writes there or where it was started."""
    for name in [name for name in os.environ if name.startswith("MLX_ALIGN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg-config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.chdir(tmp_path)


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
