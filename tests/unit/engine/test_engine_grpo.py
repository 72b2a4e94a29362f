"""GRPO through the whole engine, on the embedded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_align import backends, embedded, plan
from mlx_align.api import prepare
from mlx_align.backends.base import Alone
from mlx_align.config import RunConfig
from mlx_align.engine.planning import Plan, Planner, advise
from mlx_align.engine.preparing import objective_of
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.session import Session
from mlx_align.errors import DataError, UsageError
from mlx_align.runs import RunDirectory
from mlx_align.settings import gather, resolve
from tests import support

BRIEF: dict[str, Any] = {
    "train__steps": 2,
    "train__batch_size": 2,
    "method__group_size": 4,
    "sampling__max_tokens": 24,
    "eval__every": 0,
    "eval__rows": 4,
    "eval__samples": 1,
}


def arrays(run: RunDirectory, step: int, file: str) -> dict[str, np.ndarray]:
    return load_file(run.path / "checkpoints" / f"step-{step:06d}" / file)


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_it_trains_on_what_it_sampled(tmp_path: Path, backend: str) -> None:
    run = support.new_run(tmp_path / "runs", "grpo", **BRIEF, backend__name=backend, checkpoint__keep=9)
    assert support.engine(run) == 0, run.log.read_text() if run.log.exists() else run.state().end
    state = run.state()
    first = state.rollouts[0]
    assert (first.prompts, first.completions, first.step) == (2, 8, 1)
    assert first.length_max <= 24
    for step in state.steps:
        assert not step.skipped
        assert step.metrics["clip_low"] == step.metrics["clip_high"] == 0
        assert (step.metrics["entropy"] or 0) > 0
    assert {"reward", "exact", "length", "truncated"} == state.evals[0].metrics.keys()
    assert "filtered-sampling" not in {alert.code for alert in state.alerts}
    before, after = (arrays(run, step, "adapters.safetensors") for step in (0, 2))
    assert any((before[name] != after[name]).any() for name in before)


def test_several_updates_of_a_rollout_clip_and_stay_near(tmp_path: Path) -> None:
    options = {"rollout__updates": 2, "method__num_iterations": 2, "method__beta": 0.05, "optim__lr": 1e-2}
    options |= {"train__steps": 4, "train__batch_size": 1, "train__branches_at_once": 3, "optim__warmup": 0.0}
    run = support.new_run(tmp_path / "runs", "grpo", **{**BRIEF, **options})
    assert support.engine(run) == 0
    steps = list(run.state().steps)
    assert len(run.state().rollouts) == 1
    assert steps[0].metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert steps[0].metrics["clip_low"] == steps[0].metrics["clip_high"] == 0
    assert all((step.metrics["kl"] or 0) > 1e-6 for step in steps[1:])
    assert sum((step.metrics["clip_low"] or 0) + (step.metrics["clip_high"] or 0) for step in steps) > 0
    assert steps[0].metrics["reward"] == steps[2].metrics["reward"]  # the same completions, a second time


def test_without_signal_nothing_moves(tmp_path: Path) -> None:
    """Weight decay and momentum would move the weights where the gradient is exactly zero."""
    (tmp_path / "rewards.py").write_text("def same(completion, **rest):\n    return 0.1\n")
    options = {
        "rewards": [{"name": f"{tmp_path / 'rewards.py'}:same"}],
        "optim__weight_decay": 0.5,
        "checkpoint__every": 1,
        "checkpoint__keep": 9,
    }
    run = support.new_run(tmp_path / "runs", "grpo", **BRIEF, **options)
    assert support.engine(run) == 0
    state = run.state()
    assert [step.grad_norm for step in state.steps] == [0.0, 0.0]
    assert [alert.code for alert in state.alerts].count("no-signal") == 2
    assert not any(step.skipped for step in state.steps)
    for file in ("adapters.safetensors", "training.safetensors"):
        before, after = (arrays(run, step, file) for step in (0, 2))
        assert before.keys() == after.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_without_signal_a_reference_alone_is_no_mistake(tmp_path: Path) -> None:
    """At the first step the policy is its reference, so the KL term's gradient is zero too."""
    (tmp_path / "rewards.py").write_text("def same(completion, **rest):\n    return 0.1\n")
    rewards = [{"name": f"{tmp_path / 'rewards.py'}:same"}]
    run = support.new_run(tmp_path / "runs", "grpo", **BRIEF, rewards=rewards, method__beta=0.01)
    assert support.engine(run) == 0
    assert [alert.code for alert in run.state().alerts].count("no-signal") == 2


def test_a_reward_that_breaks_is_an_alert_and_no_zero(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "def shaky(completion, **rest):\n"
        "    if 'maybe' in completion or 'think' in completion:\n"
        "        raise KeyError('no such thing')\n"
        "    return float(len(completion))\n"
    )
    rewards = [{"name": f"{tmp_path / 'rewards.py'}:shaky"}]
    settings = {**BRIEF, "train__batch_size": 4, "sampling__top_p": 0.99}
    run = support.new_run(tmp_path / "runs", "grpo", **settings, rewards=rewards)
    assert support.engine(run) == 0
    state = run.state()
    (filtered,) = (alert for alert in state.alerts if alert.code == "filtered-sampling")
    assert filtered.level == "info"
    assert "sampling.top_p" in filtered.message
    failed = [rollout.rewards["rewards.py:shaky"].failed for rollout in state.rollouts]
    assert sum(failed) > 0
    told = [alert for alert in state.alerts if alert.code == "reward-failed" and alert.step]
    assert "no such thing" in told[0].message
    assert told[0].rows
    assert all((rollout.worst.total or 0) > 0 for rollout in state.rollouts if rollout.worst)


def test_rows_without_an_answer_are_refused_before_there_is_a_run(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "Say a."}\n{"prompt": "Say b."}\n')
    flags = {"data.path": str(data), "runs.dir": str(tmp_path / "runs")}
    with pytest.raises(DataError, match="has no answer"):
        prepare(resolve(gather("grpo", flags=flags, environ={})))
    assert not (tmp_path / "runs").exists()


def test_a_file_of_rewards_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def reward(completion, **rest):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    flags = {"runs.dir": str(tmp_path / "runs"), "rewards": [{"name": "mine.py:reward", "timeout": 9.0}]}
    run = prepare(resolve(gather("grpo", flags=flags, environ={})))
    (reward,) = run.config().rewards
    assert reward.name == f"{tmp_path / 'mine.py'}:reward"
    assert reward.options == {"timeout": 9.0}


def test_a_starting_adapter_with_dropout_is_refused_where_it_is_in_the_way(tmp_path: Path) -> None:
    start = support.new_run(tmp_path / "start", "sft", train__steps=1, adapter__dropout=0.1, eval__every=0)
    assert support.engine(start) == 0
    options = {**BRIEF, "train__steps": 1, "adapter__start": str(start.adapter)}
    with pytest.raises(UsageError, match=r"dropout of 0\.1") as caught:
        support.new_run(tmp_path / "runs", "grpo", **options, method__beta=0.01)
    assert caught.value.where == f"adapter.start = {start.adapter}"
    assert "adapter_config.json" in (caught.value.hint or "")
    assert not (tmp_path / "runs").exists()
    settings = {"adapter.start": str(start.adapter), "method.beta": 0.01, "backend.device": "cpu"}
    with pytest.raises(UsageError, match=r"dropout of 0\.1"):
        plan("grpo", settings=settings)
    assert support.engine(support.new_run(tmp_path / "runs", "grpo", **options)) == 0


def test_a_starting_adapter_that_has_got_dropout_can_be_mended(tmp_path: Path) -> None:
    """As long as the run has not begun, the adapter is not copied before it has been looked at."""
    start = support.new_run(tmp_path / "start", "sft", train__steps=1, eval__every=0)
    assert support.engine(start) == 0
    options = {**BRIEF, "train__steps": 1, "adapter__start": str(start.adapter)}
    run = support.new_run(tmp_path / "runs", "grpo", **options, method__beta=0.01)
    facts = start.adapter / "adapter_config.json"
    without = facts.read_text(encoding="utf-8")
    facts.write_text(without.replace('"dropout": 0.0', '"dropout": 0.1'), encoding="utf-8")
    assert support.engine(run) == 2
    assert "dropout of 0.1" in run.state().end.message
    facts.write_text(without, encoding="utf-8")
    assert support.engine(run) == 0, "which is what the hint says"


def test_several_ranks_are_refused(tmp_path: Path) -> None:
    class Two(Alone):
        size = 2

    run = support.new_run(tmp_path / "runs", "grpo", **BRIEF)
    session = Session(run, Reporter(lambda event: None), Two())
    with pytest.raises(UsageError, match="several ranks"):
        session._refuse_ranks("grpo")


# The planner


def planned(**settings: Any) -> Plan:
    flags = {key.replace("__", "."): value for key, value in settings.items()}
    config = resolve(gather("grpo", flags={"backend.device": "cpu", **flags}, environ={})).config
    return planner(config).plan(config)


def planner(config: RunConfig) -> Planner:
    examples = [replace(one, branch_ids=(), answers=()) for one in support.examples("completion")]
    backend = backends.create(config.backend)
    made = Planner.of(backend, embedded.model_folder(), examples[4:], examples[:4], objective_of(config))
    assert made is not None
    return made


def test_the_plan_counts_groups_of_the_longest_completions() -> None:
    small = planned().total
    assert planned(method__group_size=16).total > small
    assert planned(sampling__max_tokens=96).total > small
    assert planned(train__branches_at_once=2).total < small
    # Where little is trained at a time, sampling needs the most: the keys and values of all completions.
    wide = {"train__batch_size": 1, "train__accumulate": 8, "train__branches_at_once": 1}
    assert planned(**wide, method__group_size=32, sampling__max_tokens=512).footprint.moment == "sampling"


def test_the_plan_counts_what_a_judge_reads_and_what_is_sampled_for_pass_at_k() -> None:
    def sampled(**settings: Any) -> int:
        few = {"train.batch_size": 1, "method.group_size": 2}
        config = resolve(
            gather("grpo", flags={"backend.device": "cpu", **few, **settings}, environ={})
        ).config
        made = planner(config)
        moments = [footprint for footprint, _ in made._of_rollouts(made._arithmetic(config))]
        return max(footprint.total for footprint in moments if footprint.moment == "sampling")

    assert sampled(**{"eval.pass_k": 8}) > sampled()
    assert sampled(rewards=[{"name": "judge"}]) > sampled()


def test_reading_groups_in_parts_is_advised() -> None:
    flags = {"backend.device": "cpu", "train.batch_size": 1, "sampling.max_tokens": 512}
    config = resolve(gather("grpo", flags=flags, environ={})).config
    made = planner(config)
    small = replace(made, available=int(made.plan(config).total * 0.9))
    advice = advise(small, config)
    assert advice is not None
    assert set(advice.settings) == {"train.branches_at_once"}
    assert advice.plan.total <= small.available
