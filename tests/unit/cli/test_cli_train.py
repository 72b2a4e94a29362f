from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from example_run import FINISHED, STOPPED, FakeEngine, make_run, story

from mlx_align import embedded, methods
from mlx_align.runs import STOP, RunDirectory, RunLock
from tests.unit.hub.fake_hub import FakeHub, Repo, reached


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[FakeEngine]:
    """Training commands get a made-up run and engine; the engines that were started."""
    from mlx_align import api
    from mlx_align.engine import launch

    started: list[FakeEngine] = []

    def start(run):
        started.append(FakeEngine(story(end=FINISHED)))
        return started[-1]

    monkeypatch.setattr(api, "prepare", lambda resolved: make_run(Path(resolved.config.runs.dir)))
    monkeypatch.setattr(launch, "launch", start)
    return started


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_has_a_command(cli, method: str):
    result = cli(method, "--dry-run", "--json")
    assert json.loads(result.out)["method.name"] == {"value": method, "origin": "flag"}


def test_training_prints_the_adapter_alone(cli, engines, root: Path):
    result = cli("orpo")
    assert result.code == 0
    assert [line.endswith("/adapter") for line in result.out.splitlines()] == [True]
    assert "finished: 60 steps" in result.err


def test_detach_prints_the_name(cli, engines, root: Path):
    result = cli("orpo", "--detach")
    name = result.out.strip()
    assert (root / name).is_dir()
    assert f"runs attach {name}" in result.err


def test_a_model_that_must_be_fetched_is_told_of_first(cli, monkeypatch, tmp_path: Path, root: Path):
    from mlx_align.engine import launch

    monkeypatch.setattr(launch, "launch", lambda run: FakeEngine(story(end=FINISHED)))
    files = {file.name: file.read_bytes() for file in embedded.model_folder().iterdir() if file.is_file()}
    usage = shutil.disk_usage("/")
    with FakeHub({"org/tiny": Repo(files)}) as hub, reached(hub, tmp_path, monkeypatch):
        with monkeypatch.context() as full:
            full.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000_000))
            result = cli("orpo", "org/tiny")
            assert (result.code, result.out, hub.sent) == (1, "", [])
            assert "error: there is no room for 10,5" in result.err
            assert not root.exists()
        (tmp_path / "bad.jsonl").write_text("{\n")
        assert cli("orpo", "org/tiny", "bad.jsonl").code == 3
        assert hub.sent == [], "the data are read first"
        result = cli("orpo", "org/tiny")
        assert result.code == 0
        told = f"fetching 'org/tiny' from the hub: 11 MB in {len(files)} files, into {tmp_path / 'cache'}"
        assert result.err.startswith(told)
        assert "fetching" not in cli("orpo", "org/tiny").err


def test_json_streams_events(cli, engines):
    lines = cli("orpo", "--json").out.splitlines()
    assert json.loads(lines[-1])["type"] == "run_finished"


def test_dry_run_says_where_each_value_comes_from(cli, monkeypatch, tmp_path: Path):
    (tmp_path / "user.toml").write_text("[optim]\nlr = 1e-3\n[eval]\nmax_tokens = 32\n")
    (tmp_path / "run.toml").write_text("[adapter]\nrank = 4\n[optim]\nschedule = 'linear'\n")
    monkeypatch.setenv("MLX_ALIGN_TRAIN__SEED", "7")
    monkeypatch.setenv("MLX_ALIGN_ADAPTER__RANK", "5")
    flags = ["--preset", "quick", "--lr", "2e-4", "--set", "method.beta=0.2", "--dry-run", "--json"]
    result = cli("orpo", "-c", "run.toml", *flags)
    settings = json.loads(result.out)
    assert settings["optim.lr"] == {"value": 2e-4, "origin": "flag"}
    assert settings["method.beta"] == {"value": 0.2, "origin": "flag"}
    assert settings["adapter.rank"] == {"value": 5, "origin": "environment"}
    assert settings["train.seed"] == {"value": 7, "origin": "environment"}
    assert settings["optim.schedule"] == {"value": "linear", "origin": "file run.toml"}
    assert settings["eval.rows"] == {"value": 64, "origin": "preset quick"}
    assert settings["eval.max_tokens"]["origin"] == f"user config {tmp_path / 'user.toml'}"
    assert settings["guard.nonfinite_limit"]["origin"] == "default"


def test_dry_run_trains_nothing_and_writes_nothing(cli, engines, tmp_path: Path):
    result = cli("dpo", "--dry-run")
    assert result.code == 0
    assert engines == []
    assert list(tmp_path.iterdir()) == []
    assert result.out.splitlines()[0].split() == ["key", "value", "origin"]
    assert ["method.loss_type", "sigmoid", "default"] in [line.split() for line in result.out.splitlines()]


def test_a_budget_of_tokens_takes_the_place_of_the_rows_in_a_batch(cli):
    settings = json.loads(cli("orpo", "--tokens-per-batch", "8192", "--dry-run", "--json").out)
    assert settings["train.tokens_per_batch"] == {"value": 8192, "origin": "flag"}
    assert settings["train.batch_size"] == {"value": None, "origin": "flag"}


CONFLICTS = [
    (["--lr", "1e-4", "--set", "optim.lr=1e-3"], "optim.lr"),
    (["tiny-chat", "--set", "model.path=x"], "MODEL"),
    (["--steps", "5", "--epochs", "1"], "train.steps"),
    (["--set", "a.b"], "key=value"),
    (["--set", "optim.lrr=1"], "optim.lr"),
    (["--set", "method.gamma=1"], "method.gamma"),
    (["--batch-size", "0"], "train.batch_size"),
    (["--batch-size", "2", "--tokens-per-batch", "99"], "train.tokens_per_batch"),
    (["--preset", "slow"], "quick, balanced, thorough"),
    (["--device", "tpu"], "backend.device"),
    (["--dry-run", "--detach"], "--detach"),
    (["--json", "--display", "rich"], "--display rich"),
    (["--resume", "last", "--lr", "1"], "--lr"),
    (["tiny-chat", "--resume", "last"], "MODEL"),
    (["--resume", "last", "--set", "a=1"], "--set"),
    (["--resume", "last", "--preset", "quick"], "--preset"),
    (["-c", "missing.toml"], "missing.toml"),
    (["rows.jsonl"], "mlx-align orpo tiny-chat rows.jsonl"),
    (["rows.jsonl", "other-model"], "mlx-align orpo other-model rows.jsonl"),
]


@pytest.mark.parametrize(("arguments", "words"), CONFLICTS, ids=lambda value: " ".join(value)[:30])
def test_conflicts_are_one_clear_error(cli, engines, arguments: list[str], words: str):
    result = cli("orpo", *arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert words in result.err
    assert engines == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_coming_up_is_asked_to_stop(cli, engines, root: Path, monkeypatch, number):
    from mlx_align.engine import launch

    monkeypatch.setattr(launch, "launch", lambda run: signal.raise_signal(number))
    result = cli("orpo")
    assert result.code == 128 + number
    assert result.err.count("the run saves a checkpoint and stops") == 1
    assert RunDirectory(next(root.iterdir())).control.requested(STOP)


def test_unknown_options_and_commands_are_usage_errors(cli):
    assert cli("orpo", "--nonsense").code == 2
    assert cli("nonsense").code == 2
    assert cli("orpo", "--steps", "many").code == 2


def test_resume_goes_on(cli, engines, root: Path):
    run = make_run(root, story(30, end=STOPPED))
    assert cli("orpo", "--resume", run.name, "--display", "none").code == 0
    assert len(engines) == 1
    assert cli("runs", "resume", "last", "--display", "none").code == 0
    assert len(engines) == 2


def test_resume_refuses_what_cannot_be_resumed(cli, engines, root: Path):
    finished = make_run(root, story(end=FINISHED))
    assert "finished" in cli("runs", "resume", finished.name).err
    stopped = make_run(root, story(30, end=STOPPED), minute=1)
    assert "orpo" in cli("dpo", "--resume", stopped.name).err
    with RunLock(stopped.lock):
        assert "is running" in cli("runs", "resume", stopped.name).err
    assert "there is no run" in cli("runs", "resume", "nothing").err
    assert engines == []


def test_the_end_of_a_front_end_is_told_once(cli, monkeypatch, root: Path, engines):
    from mlx_align.engine import launch

    engine = FakeEngine([*story(3), lambda: signal.raise_signal(signal.SIGTERM)])
    monkeypatch.setattr(launch, "launch", lambda run: engine)
    result = cli("orpo")
    assert result.code == 143
    assert engine.asked == ["stop"]
    assert result.err.count("ended by SIGTERM") == 1
