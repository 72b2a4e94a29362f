"""The training loop: when it evaluates, saves and ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from transformers.utils import chat_template_utils

from mlx_align import embedded
from mlx_align.engine import data
from mlx_align.events import Checkpoint, Eval, Event, Phase, RunFailed, RunFinished, RunStopped, Step
from mlx_align.runs import CHECKPOINT, STOP, RunDirectory
from mlx_align.runs.atomic import write_json
from tests import same_run, support

OnEvent = Callable[[Callable[[Event], None]], None]


def names(run: RunDirectory) -> list[str]:
    return [path.name for path in run.checkpoints().paths()]


def script_evaluations(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Let the run's evaluations come to these losses, one after another."""
    values = iter(losses)
    monkeypatch.setattr(data, "evaluate", lambda *arguments: {"loss": next(values)})


def test_a_run_tells_its_story(tmp_path: Path) -> None:
    run = support.new_run(tmp_path / "runs")
    assert support.engine(run) == 0
    state = run.state()
    assert run.condition(state) == "finished"
    assert [step.step for step in state.steps] == [1, 2, 3, 4]
    assert [event.step for event in state.evals] == [0, 2, 4]
    assert [event.step for event in state.samples] == [0, 2, 4]
    assert {len(sample.completions) for sample in state.samples} == {2}
    assert len({tuple(c.prompt for c in sample.completions) for sample in state.samples}) == 1
    assert [event.step for event in state.checkpoints] == [0, 2, 4]
    assert state.started is not None
    assert (state.started.total_steps, state.started.train_rows, state.started.valid_rows) == (4, 24, 6)
    assert set(state.evals[0].metrics) >= {"loss", "accuracy", "margin", "chosen_reward", "kl"}
    assert state.evals[0].metrics["kl"] == pytest.approx(0.0, abs=1e-9), "nothing has moved at step 0"
    assert (state.evals[-1].metrics["kl"] or 0) > 0
    assert isinstance(state.end, RunFinished)
    assert run.path / state.end.adapter == run.adapter
    assert run.summary()["status"] == "finished"
    assert {"mlx", "mlx-lm", "transformers", "python"} <= set(run.env()["versions"])


def test_evaluation_at_start_and_end_only(tmp_path: Path, brief: dict[str, Any]) -> None:
    run = support.new_run(tmp_path / "runs", **{**brief, "train__steps": 3})
    assert support.engine(run) == 0
    assert [event.step for event in run.state().evals] == [0, 3]


def test_early_stopping_keeps_the_best_adapter(
    tmp_path: Path, brief: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    script_evaluations(monkeypatch, [3.0, 2.0, 1.0, 1.5, 1.2, 0.1])
    changes = {"train__steps": 20, "eval__every": 1, "eval__patience": 2, "checkpoint__every": 100}
    run = support.new_run(tmp_path / "runs", **{**brief, **changes, "checkpoint__keep": 1})
    assert support.engine(run) == 0
    state = run.state()
    assert [event.best for event in state.evals] == [True, True, True, False, False]
    assert isinstance(state.end, RunFinished)
    assert (state.end.reason, state.end.step, state.end.best_step) == ("early stop", 4, 2)
    assert names(run) == ["step-000002", "step-000004"]
    assert [event.best for event in state.checkpoints][-2:] == [True, False]
    best, last = ((path / "adapters.safetensors").read_bytes() for path in run.checkpoints().paths())
    assert (run.adapter / "adapters.safetensors").read_bytes() == best != last


def test_the_best_adapter_wins_also_without_early_stopping(
    tmp_path: Path, brief: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    script_evaluations(monkeypatch, [3.0, 1.0, 2.0, 4.0])
    run = support.new_run(tmp_path / "runs", **{**brief, "train__steps": 3, "eval__every": 1})
    assert support.engine(run) == 0
    best = run.path / "checkpoints" / "step-000001" / "adapters.safetensors"
    assert (run.adapter / "adapters.safetensors").read_bytes() == best.read_bytes()


def test_a_checkpoint_on_request(tmp_path: Path, brief: dict[str, Any], on_event: OnEvent) -> None:
    run = support.new_run(tmp_path / "runs", **{**brief, "train__steps": 4, "checkpoint__every": 100})

    def ask(event: Event) -> None:
        if isinstance(event, Step) and event.step == 2:
            run.control.request(CHECKPOINT)

    on_event(ask)
    assert support.engine(run) == 0, "the run goes on"
    assert [event.step for event in run.state().checkpoints] == [0, 2, 4]
    assert not run.control.requested(CHECKPOINT)


def test_a_stop_saves_and_the_next_attempt_goes_on(
    tmp_path: Path, brief: dict[str, Any], on_event: OnEvent
) -> None:
    run = support.new_run(tmp_path / "runs", **{**brief, "train__steps": 4, "checkpoint__every": 100})

    def ask(event: Event) -> None:
        if isinstance(event, Step) and event.step == 3 and event.attempt == 1:
            run.control.request(STOP)

    on_event(ask)
    assert support.engine(run) == 130
    state = run.state()
    assert state.end == RunStopped(
        **{**state.end.model_dump(), "step": 3, "checkpoint": "checkpoints/step-000003"}  # type: ignore[union-attr]
    )
    assert not run.control.requested(STOP)
    assert not run.adapter.exists()
    assert run.summary()["status"] == "stopped"
    attempts: list[int] = []
    on_event(lambda event: attempts.append(event.step) if isinstance(event, Step) else None)
    assert support.engine(run) == 0
    assert attempts == [4]
    resumed = run.state()
    assert resumed.started is not None
    assert (resumed.attempt, resumed.started.resumed_from) == (2, 3)
    assert [step.step for step in resumed.steps] == [1, 2, 3, 4]


def test_a_stop_before_the_first_step(tmp_path: Path, brief: dict[str, Any], on_event: OnEvent) -> None:
    run = support.new_run(tmp_path / "runs", **brief)
    asked: list[bool] = []

    def ask(event: Event) -> None:
        if isinstance(event, Phase) and event.name == "reference" and not asked:
            asked.append(True)
            run.control.request(STOP)

    on_event(ask)
    assert support.engine(run) == 130
    assert run.condition(run.state()) == "stopped"
    assert names(run) == []
    assert support.engine(run) == 0
    assert len(run.state().steps) == 2


def test_a_finished_run_ends_again_at_once(tmp_path: Path, brief: dict[str, Any]) -> None:
    run = support.new_run(tmp_path / "runs", **brief)
    assert support.engine(run) == 0
    before = (run.adapter / "adapters.safetensors").read_bytes()
    assert support.engine(run) == 0
    assert (run.adapter / "adapters.safetensors").read_bytes() == before
    assert [step.step for step in run.state().steps] == [1, 2]


def test_the_step_counts_of_checkpoints_and_evaluations_agree(tmp_path: Path, brief: dict[str, Any]) -> None:
    changes = {"train__steps": 6, "eval__every": 4, "checkpoint__every": 3, "checkpoint__keep": 9}
    run = support.new_run(tmp_path / "runs", **{**brief, **changes})
    assert support.engine(run) == 0
    state = run.state()
    evals: list[Eval] = list(state.evals)
    saved: list[Checkpoint] = list(state.checkpoints)
    assert [event.step for event in evals] == [0, 4, 6]
    assert {event.step for event in saved} == {0, 3, 6} | {event.step for event in evals if event.best}
    assert names(run) == [Path(event.path).name for event in saved]


# One update


@pytest.mark.parametrize("method", ["sft", "orpo", "dpo", "simpo"])
def test_two_halves_make_the_same_update_as_the_whole(
    tmp_path: Path, brief: dict[str, Any], method: str
) -> None:
    """Four rows of very different length, in one batch of four or in two of two."""
    first: list[Step] = []
    for batch_size, accumulate in ((4, 1), (2, 2)):
        data = support.small_data(tmp_path / "rows", support.objective(method).method.rows)
        train = data / "train.jsonl"
        train.write_text(
            "\n".join(train.read_text(encoding="utf-8").split("\n")[:4]) + "\n", encoding="utf-8"
        )
        run = support.new_run(
            tmp_path / "runs", method, data__path=str(data), train__batch_size=batch_size,
            train__accumulate=accumulate, **{**brief, "train__steps": 1},
        )  # fmt: skip
        assert support.engine(run) == 0
        first.append(run.state().steps[0])
    whole, halves = first
    assert halves.loss == pytest.approx(whole.loss, rel=1e-5)
    assert halves.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    assert halves.tokens == whole.tokens
    if (
        method == "dpo"
    ):  # policy and reference are one: its margins are 0 but for rounding, and so of any sign
        assert max(abs(step.metrics.pop("margin") or 0) for step in first) < 1e-5
        for step in first:
            step.metrics.pop("accuracy")
    assert halves.metrics == pytest.approx(whole.metrics, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "adafactor", "lion", "muon"])
def test_stopped_and_resumed_is_bit_identical(
    tmp_path: Path, brief: dict[str, Any], on_event: OnEvent, optimiser: str
) -> None:
    settings = {**brief, "train__steps": 4, "eval__every": 2, "optim__name": optimiser, "optim__lr": 1e-3}
    undisturbed = support.new_run(tmp_path / "a", **settings)
    assert support.engine(undisturbed) == 0
    run = support.new_run(tmp_path / "b", **settings)

    def ask(event: Event) -> None:
        if isinstance(event, Step) and event.step == 2 and event.attempt == 1:
            run.control.request(STOP)

    on_event(ask)
    assert support.engine(run) == 130
    assert support.engine(run) == 0
    same_run.assert_same(run, undisturbed)
    latest = run.checkpoints().latest()
    assert latest is not None
    slots = load_file(latest / "training.safetensors")
    assert any(value.ndim and abs(value).max() > 0 for value in slots.values()), "no optimiser state"


def test_a_template_that_writes_the_date_does_not_end_a_run_at_midnight(
    tmp_path: Path, brief: dict[str, Any], on_event: OnEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(embedded.model_folder(), tmp_path / "model")
    template = model / "chat_template.jinja"
    dated = "Today is {{ strftime_now('%d %b %Y') }}. " + template.read_text(encoding="utf-8")
    template.write_text(dated, encoding="utf-8")
    settings = {**brief, "train__steps": 4, "eval__every": 2, "model__path": str(model)}
    undisturbed, run = (support.new_run(tmp_path / name, **settings) for name in "ab")
    for made in (undisturbed, run):
        write_json(made.path / "env.json", {**made.env(), "made": "2026-03-01T23:50:00+01:00"})

    class Clock:
        day = 1

        @classmethod
        def now(cls) -> datetime:
            return datetime(2026, 3, cls.day)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    assert support.engine(undisturbed) == 0

    def ask(event: Event) -> None:
        if isinstance(event, Step) and event.step == 2 and event.attempt == 1:
            run.control.request(STOP)

    on_event(ask)
    assert support.engine(run) == 130
    Clock.day = 2
    assert support.engine(run) == 0, run.state().end
    same_run.assert_same(run, undisturbed)
    assert template.read_text(encoding="utf-8") == dated


def test_another_seed_is_another_run(tmp_path: Path, brief: dict[str, Any]) -> None:
    runs = [support.new_run(tmp_path / "runs", **brief, train__seed=seed) for seed in (0, 0, 1)]
    assert [support.engine(run) for run in runs] == [0, 0, 0]
    same_run.assert_same(runs[0], runs[1])
    assert same_run.measured(runs[0]) != same_run.measured(runs[2])


def test_an_error_nobody_thought_of_is_called_a_bug(
    tmp_path: Path, brief: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise LookupError("lost")

    monkeypatch.setattr(data, "evaluate", broken)
    run = support.new_run(tmp_path / "runs", **brief)
    assert support.engine(run) == 1
    end = run.state().end
    assert isinstance(end, RunFailed)
    assert "this is a bug in mlx-align: LookupError: lost" in end.message
    assert end.where == str(run.log)
    assert run.summary()["status"] == "failed"
