"""Memory that grows and grows is reported once; memory that goes up and down is not."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from mlx_align import backends
from mlx_align.backends.base import MemoryUse, World
from mlx_align.backends.mlx import backend as mlx_backend
from mlx_align.backends.mlx.policy import MlxPolicy
from mlx_align.config import BackendConfig, RunConfig
from mlx_align.engine.guards import MemoryWatch
from mlx_align.engine.state import TrainerState
from mlx_align.engine.trainer import Trainer
from tests import support
from tests.worlds import on_ranks


def told(readings: list[int], overkept: list[int] | None = None) -> list[int]:
    """The readings, by number, at which something was said."""
    watch = MemoryWatch()
    uses = [MemoryUse(a, a, 0, overkept=o) for a, o in zip(readings, overkept or [0] * 99, strict=False)]
    return [i for i, use in enumerate(uses) if watch.look(use)]


def test_growth_is_reported_once() -> None:
    assert told(list(range(100, 300, 10))) == [8]


def test_growth_after_a_quiet_time_is_noticed() -> None:
    assert told([100] * 10 + list(range(110, 300, 10))) == [17]


def test_slow_growth_is_noticed_when_it_has_come_to_a_quarter() -> None:
    assert told(list(range(100, 140))) == [25]


def test_buffers_kept_beyond_their_limit_count() -> None:
    assert told([100] * 20, [0] * 5 + list(range(10, 160, 10))) == [12]


def test_growth_between_which_nothing_happens_is_noticed() -> None:
    """What leaks at every fifth evaluation grows at every fifth reading."""
    leak = [reading for reading in range(100, 200, 10) for _ in range(5)]
    assert told(leak) == [40]
    watch = MemoryWatch()
    (said,) = filter(None, [watch.look(MemoryUse(10**9 * use, 0, 0)) for use in leak])
    assert "has grown for 360 updates, from 100.00 to 180.00 GB" in said, "since it was 100 for the last time"


def test_little_growth_and_changes_up_and_down_are_not() -> None:
    assert told(list(range(100, 120))) == []
    assert told([100, 150, 90, 160, 100, 170, 200, 180, 210, 220, 230, 240, 250, 240]) == []
    assert told([100] * 20) == []
    assert told([100] * 20 + [200] * 20) == []
    assert told([use for low in range(100, 200, 10) for use in (low, low + 40, low + 40, low)]) == []


def test_a_run_without_evaluations_is_watched_too(
    tmp_path: Path, brief: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_in_use = (10**9 * number for number in itertools.count(1))
    monkeypatch.setattr(MlxPolicy, "memory", lambda _: MemoryUse(next(bytes_in_use), 0, 0))
    monkeypatch.setattr(MemoryWatch, "EVERY", 2)
    run = support.new_run(tmp_path / "runs", **{**brief, "train__steps": 20})
    assert support.engine(run) == 0
    (alert,) = [alert for alert in run.state().alerts if alert.code == "memory-growth"]
    assert alert.step == 18
    assert "has grown for 16 updates" in alert.message


def test_what_grows_on_another_rank_is_told_on_rank_0(tmp_path: Path) -> None:
    """Nobody reads the others' alerts: their runs are in folders that go when they end."""

    def work(world: World) -> list[str]:
        alerts: list[str] = []
        grows = (10**9 * (100 + world.rank * 10 * number) for number in itertools.count())
        policy = SimpleNamespace(memory=lambda: MemoryUse(next(grows), 0, 0))
        data = SimpleNamespace(valid=())
        report = SimpleNamespace(alert=lambda code, message, *, step: alerts.append(message))
        parts: dict[str, Any] = {"report": report, "control": None, "checkpoints": None, "on_save": None}
        given: Any = (policy, data, None, RunConfig.model_validate({"method": {"name": "orpo"}}))
        trainer = Trainer(*given, state=TrainerState(), world=world, **parts)
        for _ in range(12):
            trainer._watch_memory()
        return alerts

    for alerts in on_ranks(2, work):
        assert not isinstance(alerts, Exception), alerts
        (alert,) = alerts
        assert alert.startswith("On rank 1: Memory in use has grown for 80 updates")


def test_mlx_tells_of_buffers_that_it_keeps_beyond_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends.create(BackendConfig(device="cpu"))
    mx.eval(mx.zeros(10**6))
    assert mx.get_cache_memory() > 0
    assert backend.memory().overkept == 0
    monkeypatch.setattr(mlx_backend, "cache_limit", lambda *_: 1000)
    assert backend.memory().overkept == mx.get_cache_memory() - 1000
