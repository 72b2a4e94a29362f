"""`mlx-align plan`, and the preflight of a run, as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_align.backends.base import MemoryUse
from mlx_align.backends.mlx import MlxBackend
from mlx_align.events import RunFailed, RunFinished
from tests import support
from tests.e2e.test_cli import assert_clean, fast, program

SMALL = MemoryUse(active=0, peak=0, limit=(2 << 30) + 20_000_000)
"""A machine with 20 MB for a run."""


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MlxBackend, "memory", lambda self: SMALL)


def test_plan_says_what_a_run_needs() -> None:
    done = program("plan")
    assert_clean(done, 0)
    for word in ("weights", "activations", "optimiser", "together", "this machine", "it fits"):
        assert word in done.stdout


def test_plan_for_programs() -> None:
    done = program("plan", "--method", "dpo", "--set", "train.batch_size=2", "--json")
    assert_clean(done, 0)
    plan = json.loads(done.stdout)
    assert plan["verdict"] == "fits"
    assert plan["total"] == sum(plan["parts"].values())
    assert plan["batch"] is None or plan["batch"]["rows"] <= 2


def test_torch_cannot_be_planned() -> None:
    assert_clean(program("plan", "--set", "backend.name=torch"), 2, "only the mlx backend")


def test_a_mistake_in_the_data_is_found_here_too(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hello"}\n')
    assert_clean(program("plan", "tiny-chat", str(rows)), 3, "rows.jsonl:1")


@pytest.mark.usefixtures("small_machine")
def test_what_will_not_fit_ends_with_4(capsys: pytest.CaptureFixture[str]) -> None:
    from mlx_align_cli.main import run

    assert run(["plan", "--batch-size", "16"]) == 4
    told = capsys.readouterr().out
    assert "it will not fit" in told
    assert "--set " in told


@pytest.mark.usefixtures("small_machine")
def test_a_run_that_will_not_fit_is_refused_and_can_be_forced(tmp_path: Path) -> None:
    settings = {"train__batch_size": 16, "train__steps": 1, "eval__samples": 0}
    refused = support.new_run(tmp_path / "runs", **settings)
    assert support.engine(refused) == 4
    end = refused.state().end
    assert isinstance(end, RunFailed)
    assert end.kind == "will-not-fit"
    assert "--set " in str(end.hint)
    assert not refused.checkpoints().paths()
    forced = support.new_run(tmp_path / "runs", **settings, guard__memory="warn")
    assert support.engine(forced) == 0
    state = forced.state()
    assert isinstance(state.end, RunFinished)
    assert "will-not-fit" in {alert.code for alert in state.alerts}


def test_every_run_says_its_plan() -> None:
    done = program("orpo", "--json", *fast())
    assert_clean(done, 0)
    kinds = [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert "plan" in kinds
    assert kinds.index("plan") < kinds.index("run_started")
