"""What rewards are computed by: found from any folder, begun after the memory check, the same in a resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlx_align import embedded
from mlx_align.engine import session
from mlx_align.errors import UsageError, WontFitError
from mlx_align.events import RunFailed
from mlx_align.runs import RunDirectory
from tests import support

BRIEF: dict[str, Any] = {
    "train__steps": 1,
    "train__batch_size": 1,
    "method__group_size": 2,
    "sampling__max_tokens": 4,
    "eval__every": 0,
    "eval__rows": 1,
    "eval__samples": 0,
}


def new_run(root: Path, *rewards: dict[str, Any]) -> RunDirectory:
    return support.new_run(root / "runs", "grpo", **BRIEF, rewards=list(rewards))


def failure(run: RunDirectory) -> RunFailed:
    end = run.state().end
    assert isinstance(end, RunFailed)
    return end


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text("def points(completion, **rest):\n    return float(len(completion))\n")
    return path


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded.model_folder(), tmp_path / "judge"))


# Found from any folder


def test_options_that_are_paths_become_absolute(
    tmp_path: Path, own_file: Path, judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = new_run(
        tmp_path,
        {"name": "python", "function": "mine.py:points", "timeout": 9.0},
        {"name": "judge", "model": "./judge", "label": "one", "max_tokens": 4},
        {"name": "judge", "model": "judge", "label": "two", "max_tokens": 4},
    )
    function, one, two = (reward.options for reward in run.config().rewards)
    assert function == {"function": f"{own_file}:points", "timeout": 9.0}
    assert (one["model"], two["model"]) == (str(judge), str(judge))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert support.engine(run) == 0


def test_options_that_are_no_paths_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a folder happens to be called like the judge that is the model itself."""
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    models = ("base", "tiny-chat", "owner/model", "~nobody-here/model")
    run = new_run(
        tmp_path, {"name": "judge"}, *({"name": "judge", "model": one, "label": one} for one in models)
    )
    assert [reward.options.get("model") for reward in run.config().rewards] == [None, *models]


# After the memory check


def test_what_will_not_fit_is_refused_before_a_reward_starts(
    tmp_path: Path, own_file: Path, judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def refuse(*arguments: Any) -> None:
        raise WontFitError("too large")

    monkeypatch.setattr(session, "preflight", refuse)
    monkeypatch.setattr(session, "Scorer", lambda *arguments: started.append(arguments))
    run = new_run(tmp_path, {"name": f"{own_file}:points"}, {"name": "judge", "model": str(judge)})
    assert support.engine(run) == WontFitError.exit_code
    assert started == []


# Unchanged in a resume


def test_a_file_of_rewards_that_has_changed_is_refused(tmp_path: Path, own_file: Path) -> None:
    run = new_run(tmp_path, {"name": f"{own_file}:points"})
    assert support.engine(run) == 0
    before = own_file.read_text()
    own_file.write_text(before.replace("float(len", "-float(len"))
    assert support.engine(run) == 3
    end = failure(run)
    assert (end.kind, end.where) == ("data", str(own_file))
    assert "'mine.py:points'" in end.message
    assert "has changed since this run began" in end.message
    assert end.hint == "Put it back as it was, or start a new run."
    own_file.write_text(before)
    assert support.engine(run) == 0, "put back, it is the same run again"
    own_file.unlink()
    assert support.engine(run) == UsageError.exit_code
    assert failure(run).where == str(own_file)


@pytest.mark.parametrize("file", ["config.json", "chat_template.jinja"])
def test_a_judge_that_has_changed_is_refused(tmp_path: Path, judge: Path, file: str) -> None:
    run = new_run(tmp_path, {"name": "judge", "model": str(judge), "max_tokens": 4})
    assert support.engine(run) == 0
    text = (judge / file).read_text()
    if file == "config.json":
        (judge / file).write_text(json.dumps({**json.loads(text), "rope_theta": 12345.0}))
    else:
        (judge / file).write_text("2 January 2026 " + text)
    assert support.engine(run) == 3
    end = failure(run)
    assert (end.kind, end.where) == ("data", str(judge))
    assert "the reward 'judge'" in end.message
    (judge / file).write_text(text)
    assert support.engine(run) == 0
