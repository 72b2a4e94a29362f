"""Reference log-probabilities are computed once, whatever happens to what was kept of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_align import embedded
from mlx_align.backends.mlx.policy import MlxPolicy
from mlx_align.batch import Batch
from mlx_align.engine.trainer import Trainer
from mlx_align.events import Event, Phase, RunFailed, RunStopped, Step
from mlx_align.runs import STOP, EventReader, RunDirectory
from mlx_align.runs.shards import Rows, Shards
from tests import support
from tests.same_run import assert_same

ROWS = 26  # 24 to train on and 2 held out
BRIEF: dict[str, Any] = {
    "train__steps": 2,
    "eval__rows": 2,
    "eval__samples": 0,
    "eval__every": 0,
    "adapter__modules": ["self_attn.q_proj", "self_attn.v_proj"],
}
OnEvent = Callable[[Callable[[Event], None]], None]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the policy's `logps` has scored."""
    calls: list[int] = []
    logps = MlxPolicy.logps

    def counted(self: MlxPolicy, batch: Batch) -> np.ndarray:
        calls.append(batch.size)
        return logps(self, batch)

    monkeypatch.setattr(MlxPolicy, "logps", counted)
    return calls


def new_run(root: Path, method: str = "dpo", **settings: Any) -> RunDirectory:
    return support.new_run(root, method, **{**BRIEF, **settings})


def finished(root: Path, method: str = "dpo", **settings: Any) -> RunDirectory:
    run = new_run(root, method, **settings)
    assert support.engine(run) == 0, run.state().end
    return run


class Anything:
    def __contains__(self, key: object) -> bool:
        return True


def kept(run: RunDirectory) -> Rows:
    """The reference log-probabilities of a run."""
    return Shards(run.path / "reference").read(Anything())[0]


def assert_same_values(run: RunDirectory, other: RunDirectory) -> None:
    rows, others = kept(run), kept(other)
    assert rows.keys() == others.keys()
    for key, row in rows.items():
        assert [array.tobytes() for array in row] == [array.tobytes() for array in others[key]]


def said(run: RunDirectory) -> list[str]:
    """What the run said about where its reference comes from, once an attempt."""
    events = EventReader(run.events).read()
    return [
        event.detail
        for event in events
        if isinstance(event, Phase) and event.name == "reference" and event.detail
    ]


def alerts(run: RunDirectory, code: str) -> list[str]:
    return [alert.message for alert in run.state().alerts if alert.code == code]


def shards(folder: Path) -> list[Path]:
    """All shards below a folder; there is at least one."""
    found = sorted(folder.rglob("*.safetensors"))
    assert found
    return found


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 16
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def model_copy(folder: Path) -> Path:
    shutil.copytree(embedded.model_folder(), folder)
    return folder


def adapter_to_start_from(folder: Path) -> Path:
    """An adapter that changes what the model says."""
    shutil.copytree(finished(folder.parent / "sft", "sft").adapter, folder)
    weights = folder / "adapters.safetensors"
    save_file(support.disturbed(load_file(weights)), weights)
    return folder


def change_weights(model: Path) -> None:
    """As a newer download: another matrix, and nothing else."""
    (path,) = model.glob("*.safetensors")
    weights = load_file(path)
    name = next(name for name in sorted(weights) if name.endswith("q_proj.weight"))
    weights[name] = weights[name] * np.asarray(1.5, weights[name].dtype)
    save_file(weights, path, metadata={"format": "mlx"})


# Other runs


def test_a_second_epoch_computes_nothing(tmp_path: Path, scored: list[int]) -> None:
    run = finished(tmp_path / "a", train__epochs=2, train__steps=None, train__batch_size=8)
    assert sum(scored) == ROWS
    assert run.state().step == 6


def test_a_second_run_computes_nothing(tmp_path: Path, scored: list[int]) -> None:
    first = finished(tmp_path / "a")
    assert sum(scored) == ROWS
    assert said(first) == [
        f"scoring {ROWS} rows with the model as it starts; 0 of {ROWS} rows are in the cache"
    ]
    assert list((tmp_path / "xdg-cache" / "mlx-align").iterdir()), "where a person's cache is"
    second = finished(tmp_path / "b", adapter__rank=3, train__seed=5, optim__lr=1e-3, method__beta=0.3)
    assert sum(scored) == ROWS
    assert said(second) == [f"{ROWS} of {ROWS} rows are in the cache"]
    assert_same_values(first, second)


def test_methods_share_the_held_out_rows(tmp_path: Path, scored: list[int]) -> None:
    finished(tmp_path / "a", "orpo")
    assert sum(scored) == 2
    assert said(finished(tmp_path / "b", "simpo")) == ["2 of 2 rows are in the cache"]
    assert said(finished(tmp_path / "c", "dpo")) == [
        f"scoring 24 rows with the model as it starts; 2 of {ROWS} rows are in the cache"
    ]
    assert sum(scored) == ROWS


def test_another_row_is_scored_in_its_batch(tmp_path: Path, scored: list[int]) -> None:
    finished(tmp_path / "a")
    scored.clear()
    run = new_run(tmp_path / "b")
    shutil.copytree(run.env()["data"], tmp_path / "mine")
    train = tmp_path / "mine" / "train.jsonl"
    first, *rest = train.read_text(encoding="utf-8").splitlines()
    changed = {**json.loads(first), "chosen": "Something else entirely."}
    train.write_text("\n".join([json.dumps(changed), *rest]) + "\n", encoding="utf-8")
    run = finished(tmp_path / "c", data__path=str(tmp_path / "mine"))
    assert scored == [2], "one batch"
    assert said(run) == [f"scoring 1 rows with the model as it starts; 25 of {ROWS} rows are in the cache"]


@pytest.mark.parametrize("changed", ["weights", "adapter", "scale"])
def test_another_policy_is_scored(tmp_path: Path, scored: list[int], changed: str) -> None:
    """A stale entry is never taken: neither from before a model file changed nor from another adapter."""
    model, start = model_copy(tmp_path / "model"), adapter_to_start_from(tmp_path / "start")
    settings = {"model__path": str(model), "adapter__start": str(start), "adapter__modules": None}
    first = finished(tmp_path / "a", **settings)
    scored.clear()
    if changed == "weights":
        change_weights(model)
    elif changed == "adapter":
        weights = load_file(start / "adapters.safetensors")
        save_file({name: value * 2 for name, value in weights.items()}, start / "adapters.safetensors")
    else:
        text = (start / "adapter_config.json").read_text()
        (start / "adapter_config.json").write_text(text.replace('"scale": 2.0', '"scale": 5.0'))
        assert '"scale": 5.0' in (start / "adapter_config.json").read_text()
    second = finished(tmp_path / "b", **settings)
    assert sum(scored) == ROWS
    one, other = kept(first), kept(second)
    assert all(not np.array_equal(one[key][0], other[key][0]) for key in one)


def test_on_another_backend_it_is_scored(tmp_path: Path, scored: list[int]) -> None:
    finished(tmp_path / "a", "orpo", backend__name="torch")
    finished(tmp_path / "b", "orpo")
    assert sum(scored) == 2


def test_batches_of_another_size_are_scored(tmp_path: Path, scored: list[int]) -> None:
    """Their padding gives other last digits: a run must not depend on what was run before it."""
    alone = finished(tmp_path / "a", train__batch_size=4, runs__cache=str(tmp_path / "own"))
    finished(tmp_path / "b", train__batch_size=3)
    scored.clear()
    after_another = finished(tmp_path / "c", train__batch_size=4)
    assert sum(scored) >= 24
    assert_same(after_another, alone)


# Damage


@pytest.mark.parametrize("spoil", [flip, cut, lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_computed_again(tmp_path: Path, scored: list[int], spoil: Any) -> None:
    first = finished(tmp_path / "a")
    for path in shards(tmp_path / "xdg-cache" / "mlx-align" / "reference"):
        spoil(path)
    second = finished(tmp_path / "b")
    assert sum(scored) == 2 * ROWS
    assert len(alerts(second, "damaged-cache")) == 1
    assert_same(second, first)
    third = finished(tmp_path / "c")
    assert sum(scored) == 2 * ROWS
    assert not alerts(third, "damaged-cache")


@pytest.mark.parametrize("cache", ["there", "gone"])
@pytest.mark.parametrize("start", [False, True])
def test_a_run_whose_own_copy_is_damaged(
    tmp_path: Path, scored: list[int], on_event: OnEvent, start: bool, cache: str
) -> None:
    """In the middle of training: the first policy is asked again, not the one that has learnt since."""
    settings: dict[str, Any] = {"runs__cache": str(tmp_path / "cache")}
    if start:
        adapter = adapter_to_start_from(tmp_path / "start")
        settings |= {"adapter__start": str(adapter), "adapter__modules": None}
    undisturbed = finished(tmp_path / "a", **settings, optim__lr=1e-2)
    run = new_run(tmp_path / "b", **settings, optim__lr=1e-2)

    def stop(event: Event) -> None:
        if isinstance(event, Step) and (event.step, event.attempt) == (1, 1):
            run.control.request(STOP)

    on_event(stop)
    assert support.engine(run) == 130
    for path in shards(run.path / "reference"):
        flip(path)
    if cache == "gone":
        shutil.rmtree(tmp_path / "cache")
    scored.clear()
    assert support.engine(run) == 0
    assert sum(scored) == (ROWS if cache == "gone" else 0)
    assert len(alerts(run, "damaged-reference")) == 1
    assert_same_values(run, undisturbed)
    assert_same(run, undisturbed)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = finished(tmp_path / "runs", runs__cache=str(tmp_path / "file"))
    assert len(alerts(run, "no-cache")) == 1
    assert len(kept(run)) == ROWS


# Interruptions


def test_stopped_while_scoring(tmp_path: Path, scored: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """After every batch in turn. No cache helps, and no batch is computed twice."""
    undisturbed = finished(tmp_path / "a", runs__cache=str(tmp_path / "first"))
    batches = scored[:]
    scored.clear()
    run = new_run(tmp_path / "b", runs__cache=str(tmp_path / "second"))
    logps = MlxPolicy.logps

    def then_stop(self: MlxPolicy, batch: Batch) -> np.ndarray:
        run.control.request(STOP)
        return logps(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(MlxPolicy, "logps", then_stop)
        for _ in batches:
            assert support.engine(run) == 130
            shutil.rmtree(tmp_path / "second" / "reference", ignore_errors=True)
    end = run.state().end
    assert isinstance(end, RunStopped)
    assert (end.step, end.checkpoint) == (0, "")
    assert run.summary()["status"] == "stopped"
    assert support.engine(run) == 0
    assert scored == batches
    assert_same_values(run, undisturbed)
    assert_same(run, undisturbed)


def test_stopped_while_scoring_again(
    tmp_path: Path, on_event: OnEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume that must score again says, when it is stopped there, where the training stands."""
    run = new_run(tmp_path / "a", checkpoint__every=1)
    original = Trainer._micro_batch

    def stop(self: Trainer, counts: dict[str, float]) -> Any:
        run.control.request(STOP)
        return original(self, counts)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_micro_batch", stop)
        assert support.engine(run) == 130
    for folder in (run.path / "reference", tmp_path / "xdg-cache"):
        shutil.rmtree(folder)
    run.control.request(STOP)
    assert support.engine(run) == 130
    end = run.state().end
    latest = run.checkpoints().latest()
    assert isinstance(end, RunStopped)
    assert latest is not None
    assert (end.step, end.checkpoint) == (1, f"checkpoints/{latest.name}")
    assert support.engine(run) == 0


# Resumes


@pytest.mark.parametrize("file", ["weights", "config.json"])
def test_other_weights_are_refused(tmp_path: Path, file: str) -> None:
    model = model_copy(tmp_path / "model")
    run = new_run(tmp_path / "runs", model__path=str(model))
    assert support.engine(run) == 0
    assert run.env()["weights_fingerprint"]
    if file == "weights":
        change_weights(model)
    else:
        facts = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps({**facts, "rope_theta": 12345.0}))
    assert support.engine(run) == 3
    end = run.state().end
    assert isinstance(end, RunFailed)
    assert (end.kind, end.where) == ("data", str(model))
    assert "have changed since this run began" in end.message
    assert "an earlier version of mlx-align counted other files" in (end.hint or "")
    shutil.rmtree(model)
    model_copy(model)
    assert support.engine(run) == 0, "put back, it is the same run again"
