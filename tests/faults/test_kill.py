"""kill -9 at random moments, then resume: bit for bit the run that nobody disturbed.

`make test-kills` kills more often.
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlx_align.engine.launch import launch
from mlx_align.events import Event, Phase, RunStarted
from mlx_align.runs import RunDirectory
from tests import support
from tests.same_run import assert_same

KILLS = int(os.environ.get("KILLS", "8"))
SETTINGS: dict[str, Any] = {
    "train__steps": 10 * KILLS,
    "train__accumulate": 2,
    "adapter__dropout": 0.1,
    "eval__every": 40,
    "checkpoint__every": 3,
}


def kill_after(run: RunDirectory, first: type[Event], seconds: float) -> None:
    """Start an engine and kill it so long after its first event of a kind."""
    engine = launch(run)
    for event in engine.events():
        if isinstance(event, first):
            break
    with pytest.raises(subprocess.TimeoutExpired):  # it must not be over by then
        engine.process.wait(timeout=seconds)
    engine.kill()
    engine.process.wait()


@pytest.mark.slow
def test_killed_and_resumed_is_bit_identical(tmp_path: Path) -> None:
    rng = random.Random(20)
    undisturbed = support.new_run(tmp_path / "a", "dpo", **SETTINGS)
    for _ in launch(undisturbed).events():
        pass
    run = support.new_run(tmp_path / "b", "dpo", **SETTINGS)
    for _ in range(KILLS):  # some while loading or scoring the reference, most while training
        kill_after(run, rng.choice([Phase, RunStarted, RunStarted]), rng.uniform(0.0, 0.9))
    for _ in launch(run).events():
        pass
    assert_same(run, undisturbed)


def test_stopped_in_the_middle_of_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop at every single micro-batch in turn, each followed by a resume."""
    from mlx_align.runs import Control

    settings = {"train__steps": 3, "train__accumulate": 3, "eval__every": 2, "adapter__dropout": 0.1}
    undisturbed = support.new_run(tmp_path / "a", "orpo", **settings)
    assert support.engine(undisturbed) == 0
    run = support.new_run(tmp_path / "b", "orpo", **settings)
    asked = [0]

    def every_second_question(self: Control, what: str) -> bool:
        if what != "stop" or not (run.path / "reference").exists():
            return False
        asked[0] += 1
        return asked[0] % 2 == 0

    monkeypatch.setattr(Control, "requested", every_second_question)
    codes = [support.engine(run)]
    while codes[-1] == 130 and len(codes) < 20:
        codes.append(support.engine(run))
    assert codes[-1] == 0
    assert codes.count(130) >= 8
    assert_same(run, undisturbed)
