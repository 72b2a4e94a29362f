"""What an attempt refuses, with which exit code, and what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlx_align import embedded
from mlx_align.errors import DataError, UsageError
from mlx_align.events import RunFailed
from mlx_align.runs import RunDirectory, RunLock
from tests import support


def failure(run: RunDirectory) -> RunFailed:
    end = run.state().end
    assert isinstance(end, RunFailed)
    assert "bug" not in end.message
    assert "Traceback" not in end.message
    return end


# Before there is a run


def test_rows_that_cannot_be_used_make_no_run(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "chosen": "b"}\n')
    with pytest.raises(DataError) as caught:
        support.new_run(tmp_path / "runs", data__path=str(bad))
    assert caught.value.where is not None
    assert f"{bad}:1" in caught.value.where
    assert not (tmp_path / "runs").exists()


def test_a_model_with_its_own_code_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(embedded.model_folder(), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_file": "evil.py"}))
    (model / "evil.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(UsageError, match="its own Python code") as caught:
        support.new_run(tmp_path / "runs", model__path=str(model))
    assert caught.value.exit_code == 2
    assert not (tmp_path / "runs").exists()


def test_a_starting_adapter_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapter") as caught:
        support.new_run(tmp_path / "runs", adapter__start=str(tmp_path / "nowhere"))
    assert caught.value.where == f"adapter.start = {tmp_path / 'nowhere'}"


# When an attempt begins


def test_a_run_that_is_worked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = support.new_run(tmp_path / "runs")
    with RunLock(run.lock):
        assert support.engine(run) == 2
    assert "already working on the run" in capsys.readouterr().err
    assert not run.events.exists(), "the log belongs to the engine that holds the lock"


def test_data_that_has_changed_since(tmp_path: Path, brief: dict[str, Any]) -> None:
    run = support.new_run(tmp_path / "runs", **brief)
    train = Path(run.env()["data"]) / "train.jsonl"
    lines = train.read_text(encoding="utf-8").split("\n")
    train.write_text("\n".join(lines[1:]), encoding="utf-8")
    assert support.engine(run) == 3
    end = failure(run)
    assert (end.kind, end.exit_code, end.where) == ("data", 3, run.env()["data"])
    assert "has changed since this run was made" in end.message
    train.write_text("\n".join(lines), encoding="utf-8")
    assert support.engine(run) == 0, "put back, it is the same run again"


def test_tokens_that_have_changed_since(tmp_path: Path, brief: dict[str, Any]) -> None:
    model = tmp_path / "model"
    shutil.copytree(embedded.model_folder(), model)
    run = support.new_run(tmp_path / "runs", **brief, model__path=str(model))
    assert support.engine(run) == 0
    template = model / "chat_template.jinja"
    template.write_text("2 January 2026 " + template.read_text(encoding="utf-8"), encoding="utf-8")
    assert support.engine(run) == 3
    end = failure(run)
    assert "other tokens" in end.message
    assert end.where == str(model)
    assert "writes the present date" in (end.hint or "")


@pytest.mark.parametrize("file", ["adapters.safetensors", "training.safetensors", "trainer.json"])
def test_a_damaged_checkpoint(tmp_path: Path, brief: dict[str, Any], file: str) -> None:
    run = support.new_run(tmp_path / "runs", **{**brief, "checkpoint__every": 1})
    assert support.engine(run) == 0
    latest = run.checkpoints().latest()
    assert latest is not None
    (latest / file).write_bytes((latest / file).read_bytes()[:20])
    assert support.engine(run) == 1
    end = failure(run)
    assert end.where == str(latest)
    assert "cannot be read" in end.message
    assert end.hint is not None
    assert "Remove this folder" in end.hint
    shutil.rmtree(latest)
    assert support.engine(run) == 0, "which is what the hint says"


def test_a_model_folder_that_has_gone(tmp_path: Path, brief: dict[str, Any]) -> None:
    model = tmp_path / "model"
    shutil.copytree(embedded.model_folder(), model)
    run = support.new_run(tmp_path / "runs", **brief, model__path=str(model))
    shutil.rmtree(model)
    assert support.engine(run) == 2
    assert failure(run).where == str(model)


def test_rows_that_are_all_too_long(tmp_path: Path, brief: dict[str, Any]) -> None:
    run = support.new_run(tmp_path / "runs", **brief, data__max_length=8)
    assert support.engine(run) == 3
    end = failure(run)
    assert "data.max_length" in f"{end.message} {end.where} {end.hint}"


def test_rows_too_long_are_left_out_and_named(tmp_path: Path, brief: dict[str, Any]) -> None:
    whole = support.new_run(tmp_path / "runs", **brief)
    assert support.engine(whole) == 0
    lengths = sorted(example.length for example in support.examples(count=24))
    limit = lengths[len(lengths) // 2]
    run = support.new_run(tmp_path / "runs", **brief, data__max_length=limit)
    assert support.engine(run) == 0
    (alert,) = [alert for alert in run.state().alerts if alert.code == "too-long"]
    assert str(limit) in alert.message
    assert all("jsonl:" in row for row in alert.rows)
    assert run.state().started is not None
    assert run.state().started.train_rows == sum(length <= limit for length in lengths)  # type: ignore[union-attr]


def test_rows_above_the_budget_of_tokens_are_named_once(tmp_path: Path, brief: dict[str, Any]) -> None:
    run = support.new_run(tmp_path / "runs", **brief, train__batch_size=None, train__tokens_per_batch=64)
    assert support.engine(run) == 0
    (alert,) = [alert for alert in run.state().alerts if alert.code == "over-budget"]
    assert "train.tokens_per_batch = 64" in alert.message
    assert alert.level == "warning"
    assert all("jsonl:" in row for row in alert.rows)
    steps = list(run.state().steps)
    assert all(0 < step.tokens <= step.padded for step in steps)


def test_modules_the_model_does_not_have(tmp_path: Path, brief: dict[str, Any]) -> None:
    run = support.new_run(tmp_path / "runs", **{**brief, "adapter__modules": ["query_key_value"]})
    assert support.engine(run) == 2
    end = failure(run)
    assert end.where == "adapter.modules"
    assert end.hint is not None
    assert "self_attn.q_proj" in end.hint


def test_a_full_disk_and_a_full_memory_are_told_apart_from_bugs(tmp_path: Path) -> None:
    from mlx_align.engine.__main__ import explain

    run = RunDirectory(tmp_path / "run")
    full = explain(OSError(28, "No space left on device"), run)
    assert (full.message, full.exit_code) == ("the disk is full", 1)
    memory = explain(RuntimeError("[malloc] Unable to allocate 123 bytes."), run)
    assert memory.exit_code == 6
    assert memory.hint is not None
    assert "batch_size" in memory.hint
    assert "bug" in explain(ValueError("?"), run).message
    same = DataError("d")
    assert explain(same, run) is same
