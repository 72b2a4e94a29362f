"""GRPO on real input: the embedded model learns to give sums straight, from nothing but right and wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_align.events import Rollout, Step, parse
from tests.bench import grpo

RISE = 0.2
"""The promise: in points of exact match, over 100."""


def test_half_of_the_sums_are_wrong_before() -> None:
    assert len(grpo.problems()) >= 200
    assert 0.3 <= grpo.exact_match(None) <= 0.6


@pytest.mark.slow
def test_sums_become_right(tmp_path: Path) -> None:
    """The short form of tests/bench/grpo.py: fewer updates, one seed."""
    run, _ = grpo.learn(tmp_path, train__steps=20, eval__samples=0)
    evals = list(run.state().evals)
    assert grpo.exact_match(run.adapter) >= grpo.exact_match(None) + RISE
    assert evals[-1].metrics["exact"] >= evals[0].metrics["exact"] + RISE
    rewards = [rollout.reward.mean or 0.0 for rollout in run.state().rollouts]
    assert len(rewards) == 20
    assert sum(rewards[-5:]) > sum(rewards[:5])


def test_the_command_scores_by_a_persons_own_function(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def reward(completion, *, prompt, answer, row, tokens, truncated):\n"
        "    return float(tokens < 14) if 'maybe' not in completion else None\n"
    )
    command = [
        sys.executable, "-m", "mlx_align_cli.main", "grpo", "--reward", "mine.py:reward=0.5",
        "--reward", "numeric", "--json", "--steps", "2", "--batch-size", "2", "--device", "cpu",
        "--set", "eval.rows=4", "--set", "eval.samples=1", "--set", "method.group_size=4",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    events = [parse(line) for line in done.stdout.splitlines()]
    rollouts = [event for event in events if isinstance(event, Rollout)]
    assert len(rollouts) == 2
    assert set(rollouts[0].rewards) == {"mine.py:reward", "numeric"}
    steps = [event for event in events if isinstance(event, Step)]
    assert steps[0].metrics["reward"] == rollouts[0].reward.mean
    assert json.loads(done.stdout.splitlines()[-1])["type"] == "run_finished"
