"""The main job on real input: each preference method teaches the embedded model the crisp manner."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import manner


def test_half_of_the_answers_are_sloppy_before() -> None:
    assert len(manner.prompts()) >= 100
    assert 0.25 <= manner.crisp_share(None) <= 0.60


@pytest.mark.slow
@pytest.mark.parametrize("method", ["orpo", "dpo", "simpo"])
def test_nearly_all_are_crisp_after(tmp_path: Path, method: str) -> None:
    result = manner.measure(tmp_path, method, seed=0)
    assert result["crisp_after"] >= 0.90, result
    assert result["held_out_accuracy"] >= 0.95, result
