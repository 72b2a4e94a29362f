"""`doctor --selftest` agrees where the backends do, and says so where one is wrong."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from mlx_align.backends.torch.policy import TorchPolicy
from mlx_align.batch import Batch
from mlx_align.config import BackendConfig
from mlx_align.engine import selftest
from mlx_align.methods import METHODS


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_cpu_devices_agree(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    said: list[str] = []
    report = selftest.run(BackendConfig(name=name, device="cpu"), said.append)
    assert report.passed, [check for check in report.checks if not check.passed]
    assert (report.tested, report.reference) == {
        "mlx": ("mlx:cpu", "torch:cpu"),
        "torch": ("torch:cpu", "mlx:cpu"),
    }[name]
    assert len(report.checks) == 4 + 2 * len(METHODS)
    assert os.environ["MLX_ENABLE_TF32"] == {"mlx": "0", "torch": "1"}[name]
    assert report.environment == ({"MLX_ENABLE_TF32": "0"} if name == "mlx" else {})
    assert said


def test_a_device_that_is_wrong_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    logps = TorchPolicy.logps

    def a_little_off(self: TorchPolicy, batch: Batch) -> np.ndarray:
        return logps(self, batch) * np.float32(1.001)

    monkeypatch.setattr(TorchPolicy, "logps", a_little_off)
    report = selftest.run(BackendConfig(name="torch", device="cpu"), lambda what: None)
    assert not report.passed
    assert "token log-probabilities" in [check.name for check in report.checks if not check.passed]


def test_a_difference_that_is_not_a_number_fails() -> None:
    assert not selftest.Check("anything", float("nan"), 1.0).passed


def test_accelerators_are_compared_with_their_own_cpu() -> None:
    for name, device in (("mlx", "mlx:metal"), ("mlx", "mlx:cuda"), ("torch", "torch:cuda")):
        assert selftest.reference_for(BackendConfig(name=name), device).name == name
    assert selftest.reference_for(BackendConfig(name="mlx"), "mlx:cpu").name == "torch"
