from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from example_run import CRISP, FAILED, FINISHED, STOPPED, make_run, save_checkpoint, story
from rich.console import Console

from mlx_align.runs import CHECKPOINT, STOP, RunLock
from mlx_align_cli.commands import steer
from mlx_align_cli.display import listing
from mlx_align_cli.options import complete_runs


@pytest.fixture
def runs(root: Path):
    """Five runs, one of each kind of end, oldest first."""
    ends = [FINISHED, STOPPED, FAILED, None]
    made = [make_run(root, story(20, end=end), minute=n) for n, end in enumerate(ends)]
    return [*made, make_run(root, minute=9, method="dpo")]


def test_ls_shows_the_condition_of_every_run(cli, runs):
    listed = {row["name"]: row for row in json.loads(cli("runs", "ls", "--json").out)}
    conditions = [listed[run.name]["condition"] for run in runs]
    assert conditions == ["finished", "stopped", "failed", "crashed", "new"]
    with RunLock(runs[3].lock):
        table = cli("runs", "ls").out
    assert len(table.splitlines()) == 6
    row = next(line for line in table.splitlines() if runs[3].name in line)
    assert "running" in row
    assert "20/60" in row
    assert "accuracy 65.4%" in row


def test_ls_believes_the_summary_the_engine_left(cli, runs):
    for run in (runs[1], runs[3]):  # one has said its last word to the log only, one has died
        run.write_summary(status="running", step=3, total_steps=9, metrics={"loss": 0.5})
    rows = {row["name"]: row for row in json.loads(cli("runs", "ls", "--json").out)}
    stopped, crashed = rows[runs[1].name], rows[runs[3].name]
    assert (stopped["condition"], crashed["condition"]) == ("stopped", "crashed")
    assert (crashed["step"], crashed["total_steps"], crashed["metrics"]) == (3, 9, {"loss": 0.5})


def test_ls_survives_a_damaged_run(cli, runs):
    (runs[0].path / "state.json").write_text("{")
    result = cli("runs", "ls")
    assert result.code == 0
    assert "unreadable" in result.out


def test_ls_without_runs(cli):
    result = cli("runs", "ls")
    assert (result.code, result.out) == (0, "")
    assert "no runs" in result.err
    assert json.loads(cli("runs", "ls", "--json").out) == []


def test_runs_dir_is_a_flag_a_variable_and_a_key(cli, runs, monkeypatch, tmp_path: Path):
    make_run(tmp_path / "other")
    monkeypatch.setenv("MLX_ALIGN_RUNS__DIR", "other")
    assert len(json.loads(cli("runs", "ls", "--json").out)) == 1
    assert len(json.loads(cli("runs", "ls", "--json", "--runs-dir", "runs").out)) == 5


def test_show(cli, runs):
    text = cli("runs", "show", runs[0].name).out
    computed = "4,900 tokens, 20% of them padding, 7 traces"
    for words in ("finished, step 20", "beta=0.1", "rank 16", CRISP, "held out", "mlx-align generate"):
        assert words in text
    assert computed in text
    facts = json.loads(cli("runs", "show", runs[3].name, "--json").out)
    assert (facts["condition"], facts["step"], facts["comparisons"][0]["after"]) == ("crashed", 20, CRISP)


def test_logs(cli, runs):
    runs[0].log.write_text("loading\nan odd \x1b[31mthing\n")
    assert cli("runs", "logs", runs[0].name).out == "loading\nan odd \x1b[31mthing\n"
    assert cli("runs", "logs", runs[0].name, "--follow").code == 0
    assert cli("runs", "logs", runs[0].name).err == ""
    empty = cli("runs", "logs", runs[1].name)
    assert (empty.out, empty.err) == ("", f"{runs[1].name}: the engine has written nothing\n")


def test_attach_replays(cli, runs):
    result = cli("runs", "attach", runs[0].name, "--json")
    assert result.code == 0
    assert json.loads(result.out.splitlines()[-1])["type"] == "run_finished"
    assert cli("runs", "attach", runs[1].name).code == 130
    assert cli("runs", "attach", runs[2].name).code == 5
    assert "without a last word" in cli("runs", "attach", runs[3].name).err


def test_stop_asks_and_waits(cli, runs, monkeypatch):
    lock = RunLock(runs[3].lock)
    lock.__enter__()
    monkeypatch.setattr(steer.time, "sleep", lambda seconds: lock.__exit__(None, None, None))
    result = cli("runs", "stop", runs[3].name)
    assert result.code == 0
    assert runs[3].control.requested(STOP)
    assert "crashed at step 20" in result.err  # this made-up engine left no last word


def test_stop_now_ends_what_does_not_answer(cli, runs, monkeypatch, capsys):
    name, lock = runs[3].name, RunLock(runs[3].lock)
    killed, meanwhile = [], []

    def end(seconds):
        meanwhile.append(capsys.readouterr().err)
        lock.__exit__(None, None, None)

    monkeypatch.setattr("mlx_align.engine.launch.kill", lambda run, pid: killed.append((run.name, pid)))
    monkeypatch.setattr(steer.time, "sleep", end)
    save_checkpoint(runs[3], 20)
    with lock:
        assert cli("runs", "stop", name, "--now", "--no-wait").err.startswith(f"{name}: killed\n")
        result = cli("runs", "stop", name, "--now")
    assert result.code == 0
    assert killed == [(name, os.getpid())] * 2
    assert meanwhile == [f"{name}: killed, waiting for it to end\n"]
    assert result.err.startswith(f"{name}: the last checkpoint is step 20; go on with")
    assert "is not running" in cli("runs", "stop", name, "--now").err


def test_stop_and_checkpoint_need_a_running_run(cli, runs):
    for command in ("stop", "checkpoint"):
        result = cli("runs", command, runs[0].name)
        assert result.code == 2
        assert "is not running" in result.err
    with RunLock(runs[0].lock):
        assert cli("runs", "stop", runs[0].name, "--no-wait").code == 0
        assert cli("runs", "checkpoint", runs[0].name).code == 0
    assert runs[0].control.requested(CHECKPOINT)


def test_rm_asks_and_refuses_what_runs(cli, runs, monkeypatch):
    with RunLock(runs[0].lock):
        assert "is running" in cli("runs", "rm", runs[1].name, runs[0].name, "--yes").err
    monkeypatch.setattr("typer.confirm", lambda *args, **options: False)
    refused = cli("runs", "rm", runs[0].name)
    assert (refused.code, refused.err) == (0, "nothing removed\n")
    assert all(run.path.is_dir() for run in runs)
    assert cli("runs", "rm", runs[0].name, runs[1].name, runs[0].name, "--yes").code == 0
    assert [run.path.is_dir() for run in runs] == [False, False, True, True, True]


def test_rm_names_what_cannot_be_made_again(cli, runs):
    (runs[0].path / "preferences.jsonl").write_text("{}\n", encoding="utf-8")
    (runs[0].path / "exports" / "gguf").mkdir(parents=True)
    (runs[0].path / "exports" / "gguf" / "mlx-align.json").touch()
    asked = cli("runs", "rm", runs[0].name, runs[1].name).err
    assert f"Remove {runs[0].name} (with 1 kept pair and 1 export), {runs[1].name}?" in asked


def test_a_name_that_fits_several_runs(cli, runs):
    result = cli("runs", "show", "orpo")
    assert result.code == 2
    assert "fits 4 runs" in result.err


def test_completion_offers_names_and_never_fails(runs, monkeypatch):
    assert complete_runs("l") == ["last"]
    assert runs[0].name in complete_runs("2026")
    monkeypatch.setenv("MLX_ALIGN_NONSENSE", "1")
    assert complete_runs("") == []


def test_what_to_type_means_the_run_from_here(cli, runs, tmp_path: Path):
    elsewhere = make_run(tmp_path / "other", story(20, end=STOPPED), minute=1)
    assert f"runs resume {runs[1].name}\n" in cli("runs", "attach", runs[1].name).err
    typed = f"other/{elsewhere.name}"
    assert f"runs resume {typed}\n" in cli("runs", "attach", "last", "--runs-dir", "other").err
    assert cli("runs", "show", typed).code == 0


def test_rm_of_all_that_failed(cli, runs):
    assert cli("runs", "rm").code == 2
    asked = cli("runs", "rm", "--failed")  # nobody there to answer
    assert runs[2].name in asked.err
    assert runs[3].name in asked.err
    assert all(run.path.is_dir() for run in runs)
    assert cli("runs", "rm", "--failed", "--yes").code == 0
    assert [run.path.is_dir() for run in runs] == [True, True, False, False, True]
    assert "nothing removed" in cli("runs", "rm", "--failed").err


def test_there_are_no_runs(cli):
    for command in ("show", "logs", "attach", "stop", "resume"):
        result = cli("runs", command, "last", "--runs-dir", "nowhere")
        assert result.code == 2
        assert "there are no runs in nowhere" in result.err


def test_show_does_not_end_with_itself(cli, runs):
    assert "runs show" not in cli("runs", "show", runs[0].name).out


def test_ls_shows_what_a_finished_run_has_kept(cli, runs):
    runs[0].write_summary(status="finished", step=20, metrics={"loss": 0.9, "accuracy": 0.25})
    save_checkpoint(runs[0], 10, last_metrics={"loss": "0.5", "accuracy": "0.75"})
    save_checkpoint(runs[0], 20, best_checkpoint="step-000010")
    listed = {row["name"]: row for row in json.loads(cli("runs", "ls", "--json").out)}
    assert listed[runs[0].name]["metrics"] == {"loss": 0.5, "accuracy": 0.75}


def test_ls_fits_80_columns_and_leaves_no_column_out(cli, runs, monkeypatch):
    runs[1].write_summary(status="stopped", model="somebody/Some-Very-Long-Model-Name-4B-Instruct", step=20)
    monkeypatch.setattr(listing, "stdout", lambda: Console(highlight=False, width=80))
    lines = cli("runs", "ls").out.splitlines()
    assert len(lines) == 6
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["name", "method", "model", "condition", "step", "held", "out", "changed"]
    for line, run in zip(lines[1:], reversed(runs), strict=True):
        assert cli("runs", "show", line.split()[0], "--json").out.startswith('{\n  "name": "' + run.name)
