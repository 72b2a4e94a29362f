"""What makes a run slower than it could be is said when it begins, and does not stop it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_align.backends.mlx import probe
from mlx_align.backends.mlx.backend import MlxBackend
from tests import support


def test_a_model_whose_prompts_cannot_be_shared(
    tmp_path: Path, brief: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_sharing_trouble", lambda *given: "its layers hand on a state")
    run = support.new_run(tmp_path / "runs", "orpo", **brief)
    assert support.engine(run) == 0
    (alert,) = [alert for alert in run.state().alerts if alert.code == "slower-forward"]
    assert alert.level == "info"
    assert "once for every answer" in alert.message
    assert "its layers hand on a state" in alert.message


def test_a_machine_without_its_fast_library(
    tmp_path: Path, brief: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MlxBackend, "advice", lambda self: "matrix products are slow here")
    run = support.new_run(tmp_path / "runs", "orpo", **brief)
    assert support.engine(run) == 0
    said = [(alert.level, alert.message) for alert in run.state().alerts if alert.code == "slow-machine"]
    assert said == [("info", "matrix products are slow here")]
