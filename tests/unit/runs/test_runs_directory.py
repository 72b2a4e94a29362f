"""A run is a directory: made, found, listed, judged and removed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlx_align.config import MethodConfig, ModelConfig, RunConfig
from mlx_align.errors import AlignError, UsageError
from mlx_align.events import Event, RunFailed, RunFinished, RunStarted, RunStopped
from mlx_align.runs import (
    CHECKPOINT,
    STOP,
    EventWriter,
    RunDirectory,
    RunLock,
    create,
    find,
    list_runs,
    run_around,
)
from mlx_align.runs.directory import slug

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
LATER = datetime(2026, 1, 3, 12, 0, 0, tzinfo=UTC)
CONFIG = RunConfig(method=MethodConfig(name="dpo", beta=0.2), model=ModelConfig(path="Org/My Model_7B"))
STARTED = RunStarted(
    method="dpo", model="m", data="d", backend="mlx", device="cpu", pid=1, total_steps=1,
    train_rows=1, valid_rows=1, trainable_parameters=1,
)  # fmt: skip


def say(run: RunDirectory, *events: Event) -> None:
    log = EventWriter(run.events, attempt=1, seq=0)
    for event in events:
        log(event)
    log.close()


def test_a_new_run(tmp_path: Path) -> None:
    run = create(tmp_path / "deep" / "runs", CONFIG, {"model_folder": "/m"}, NOON)
    assert run.name == "20260102-120000-dpo-my-model-7b"
    assert run.config() == CONFIG
    local = NOON.astimezone()
    assert run.env() == {"model_folder": "/m", "made": local.isoformat()}
    assert run.made == local.replace(tzinfo=None)
    assert run.summary() == {"status": "new", "method": "dpo"}
    assert run.state().status == "new"
    assert run.condition(run.state()) == "new"
    assert (run.is_running(), run.pid(), run.checkpoints().latest()) == (False, None, None)


def test_the_run_around_a_folder(tmp_path: Path) -> None:
    run, other = (create(tmp_path / "runs", CONFIG, {}, NOON).path for _ in range(2))
    disk = tmp_path / "disk"
    disk.mkdir()
    (run / "exports").symlink_to(disk)
    (tmp_path / "link").symlink_to(run / "checkpoints")
    for inside in (run / "checkpoints" / "step-1", run / "exports" / "gguf", tmp_path / "link" / "step-1"):
        found = run_around(inside)
        assert found is not None, inside
        assert found.path.samefile(run)
    passed = run_around(run / ".." / other.name / "adapter")
    assert passed is not None
    assert passed.path == other
    assert run_around(run / ".." / "elsewhere") is None
    assert run_around(run / "exports" / ".." / "gguf") is None
    beside = run_around(tmp_path / "disk" / ".." / "runs" / run.name / "exports" / "gguf")
    assert beside is not None
    assert beside.path == run
    (run / "kept").symlink_to(other)
    linked = run_around(run / "kept" / "adapter")
    assert linked is not None
    assert linked.path == other
    assert run_around(disk / "gguf") is None


def test_two_runs_in_the_same_second_are_two(tmp_path: Path) -> None:
    names = [create(tmp_path, CONFIG, {}, NOON).name for _ in range(3)]
    assert names == [names[0], f"{names[0]}-2", f"{names[0]}-3"]


@pytest.mark.parametrize(
    ("model", "short"),
    [
        ("Qwen/Qwen3-0.6B", "qwen3-0.6b"),
        ("/models/über uns/", "ber-uns"),
        ("..", "model"),
        ("../../etc", "etc"),
        ("日本", "model"),
        ("x" * 99, "x" * 40),
    ],
)
def test_a_model_makes_a_safe_name(model: str, short: str) -> None:
    assert slug(model) == short


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AlignError, match="run directory cannot be made") as caught:
        create(tmp_path / "file", CONFIG, {})
    assert caught.value.where == str(tmp_path / "file")


# What became of it


@pytest.mark.parametrize(
    ("last", "condition"),
    [
        ([], "crashed"),
        ([RunFinished(step=1, reason="completed", adapter="a")], "finished"),
        ([RunStopped(step=1, checkpoint="c")], "stopped"),
        ([RunFailed(step=1, kind="error", message="m")], "failed"),
        ([RunFailed(step=1, kind="error", message="m"), STARTED], "crashed"),
    ],
)
def test_condition(tmp_path: Path, last: list[Event], condition: str) -> None:
    run = create(tmp_path, CONFIG, {})
    say(run, STARTED, *last)
    assert run.condition(run.state()) == condition
    with RunLock(run.lock):
        assert run.condition(run.state()) == "running"


# Finding


def test_newest_first(tmp_path: Path) -> None:
    old, new = create(tmp_path, CONFIG, {}, NOON), create(tmp_path, CONFIG, {}, LATER)
    (tmp_path / "not-a-run").mkdir()
    (tmp_path / "file").write_text("")
    assert [run.name for run in list_runs(tmp_path)] == [new.name, old.name]
    assert list_runs(tmp_path / "nowhere") == []


def test_by_name_by_part_by_path_and_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = create(tmp_path, CONFIG, {}, NOON), create(tmp_path, CONFIG, {}, LATER)
    twin = create(tmp_path, CONFIG, {}, NOON)
    assert find(tmp_path, old.name) == old, "an exact name wins over the longer one that contains it"
    assert find(tmp_path, "0103") == new
    assert find(tmp_path, "last") == new
    assert find(tmp_path / "elsewhere", str(twin.path)).path == twin.path.resolve()
    monkeypatch.chdir(tmp_path)
    assert find(tmp_path / "elsewhere", f"./{twin.name}").path == twin.path.resolve()


def test_what_fits_several_or_none(tmp_path: Path) -> None:
    runs = [create(tmp_path, CONFIG, {}, NOON) for _ in range(5)]
    with pytest.raises(UsageError, match="fits 5 runs") as caught:
        find(tmp_path, "dpo")
    assert caught.value.hint is not None
    assert runs[-1].name in caught.value.hint
    for name in ("sft", "last-but-one", "../nowhere"):
        with pytest.raises(UsageError, match="there is no run"):
            find(tmp_path, name)
    with pytest.raises(UsageError, match="there is no run 'last'"):
        find(tmp_path / "nowhere", "last")


# Removing, requests, damage


def test_a_running_run_is_not_removed(tmp_path: Path) -> None:
    run = create(tmp_path, CONFIG, {})
    with RunLock(run.lock):
        with pytest.raises(UsageError, match="is running") as caught:
            run.remove()
        assert run.path.exists()
    assert caught.value.hint == f"First `mlx-align runs stop {run.name}`."
    run.remove()
    assert not run.path.exists()


def test_requests_wait_until_they_are_cleared(tmp_path: Path) -> None:
    control = create(tmp_path, CONFIG, {}).control
    assert not control.requested(STOP)
    control.clear(STOP)
    control.request(STOP)
    control.request(STOP)
    assert control.requested(STOP)
    assert not control.requested(CHECKPOINT)
    control.clear(STOP)
    assert not control.requested(STOP)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = create(tmp_path, CONFIG, {})
    (run.path / "env.json").write_text('{"model"')
    with pytest.raises(AlignError, match="cannot be read") as caught:
        run.env()
    assert caught.value.where == str(run.path / "env.json")
    (run.path / "state.json").unlink()
    assert run.summary() == {}


def test_the_summary_is_replaced_as_a_whole(tmp_path: Path) -> None:
    run = create(tmp_path, CONFIG, {})
    run.write_summary(status="running", step=3)
    assert run.summary() == {"status": "running", "step": 3}
