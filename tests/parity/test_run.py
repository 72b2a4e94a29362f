"""Whole runs: the two backends stay together for thirty steps, and a run changes over between them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_align import backends, embedded
from mlx_align.config import BackendConfig
from mlx_align.data import collate
from mlx_align.engine.trainer import Trainer
from mlx_align.events import RunStarted
from mlx_align.runs import EventReader, RunDirectory
from tests import support

RTOL = 1e-3
RATES = {"sft": 1e-3, "orpo": 1e-3, "dpo": 5e-3, "simpo": 5e-3}
"""So large that thirty steps change the losses."""
OTHER = {"mlx": "torch", "torch": "mlx"}


def losses(run: RunDirectory) -> list[float]:
    """The loss of every step of a finished run."""
    state = run.state()
    assert state.status == "finished", run.log.read_text() if run.log.exists() else state.end
    return [step.loss or 0.0 for step in state.steps]


def finished(root: Path, method: str, backend: str, **settings: Any) -> RunDirectory:
    run = support.new_run(root / f"{method}-{backend}", method, backend__name=backend, **settings)
    assert support.engine(run) == 0
    return run


def final_adapter(run: RunDirectory) -> dict[str, np.ndarray]:
    latest = run.checkpoints().latest()
    assert latest is not None
    return load_file(latest / "adapters.safetensors")


@pytest.mark.parametrize("method", RATES)
def test_thirty_steps(method: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"train__steps": 30, "optim__lr": RATES[method], "eval__every": 15}
    settings["eval__samples"] = 0
    runs = [finished(tmp_path, method, backend, **settings) for backend in OTHER]
    mlx, torch = (losses(run) for run in runs)
    apart = np.abs(np.array(torch) / np.array(mlx) - 1)
    before, after = (runs[1].state().evals[i].metrics["loss"] for i in (0, -1))
    print(f"{method}: held out {before:.4f} -> {after:.4f}, largest relative difference {apart.max():.1e}")
    assert len(mlx) == len(torch) == 30
    assert abs(after / before - 1) > 0.02, "nothing was learnt, so nothing was compared"
    assert apart.max() < RTOL


def stop_after(monkeypatch: pytest.MonkeyPatch, micro_batches: int) -> None:
    """Let the next engine be asked to stop when it has done so many micro-batches."""
    original = Trainer._micro_batch

    def watched(self: Trainer, counts: dict[str, float]) -> tuple[str, ...]:
        rows = original(self, counts)
        if self.state.position == micro_batches:
            self._control.request("stop")
        return rows

    monkeypatch.setattr(Trainer, "_micro_batch", watched)


@pytest.mark.parametrize(
    ("optimiser", "kind", "stop"),
    [("adamw", "lora", 6), ("adamw", "dora", 7), ("muon", "lora", 7)],
)
@pytest.mark.parametrize("first", OTHER)
def test_a_run_changes_over(
    first: str, optimiser: str, kind: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps of two micro-batches; stopped after the third step, or in the middle of the fourth."""
    settings: dict[str, Any] = {
        "train__steps": 6, "train__accumulate": 2, "optim__lr": 1e-3, "optim__name": optimiser,
        "adapter__type": kind, "eval__samples": 0, "eval__every": 0,
    }  # fmt: skip
    undisturbed = finished(tmp_path / "a", "dpo", "mlx", **settings)
    run = support.new_run(tmp_path / "b", "dpo", backend__name=first, **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        assert support.engine(run) == 130
    latest = run.checkpoints().latest()
    assert latest is not None
    held = [name for name in load_file(latest / "training.safetensors") if name.startswith("gradient.")]
    assert bool(held) == (stop == 7), "the checkpoint should hold a gradient in the middle of a window only"
    run.move({"name": OTHER[first]})
    assert support.engine(run) == 0
    starts = [event.backend for event in EventReader(run.events).read() if isinstance(event, RunStarted)]
    assert starts == [first, OTHER[first]]
    got, want = losses(run), losses(undisturbed)
    assert len(got) == 6
    np.testing.assert_allclose(got, want, rtol=RTOL)
    for name, value in final_adapter(undisturbed).items():
        moved = np.abs(value - final_adapter(run)[name]).max()
        assert moved <= 5e-3 * np.abs(value).max(), name


@pytest.mark.parametrize("writer", OTHER)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_saved_adapter_is_read_by_the_other(kind: str, writer: str, tmp_path: Path) -> None:
    run = finished(tmp_path / "runs", "sft", writer, optim__lr=5e-3, adapter__type=kind)
    batch = collate(support.examples()[:4])
    logps = {
        name: backends.create(BackendConfig(name=name, device="cpu"))
        .load_for_generation(embedded.model_folder(), run.adapter)
        .logps(batch)
        for name in OTHER
    }
    bare = backends.create(BackendConfig(name="torch", device="cpu")).load_for_generation(
        embedded.model_folder(), None
    )
    np.testing.assert_allclose(logps["mlx"], logps["torch"], atol=1e-4)
    assert np.abs(bare.logps(batch) - logps["torch"]).max() > 0.01, "the adapter changes nothing"


def test_the_files_are_the_same(tmp_path: Path) -> None:
    """Facts and names, and what mlx-lm itself makes of the torch backend's folder."""
    import json

    from mlx_lm.utils import load

    runs = {name: finished(tmp_path, "orpo", name, adapter__modules="mlp") for name in OTHER}
    facts = [json.loads((run.adapter / "adapter_config.json").read_text()) for run in runs.values()]
    assert facts[0] == facts[1]
    arrays = [load_file(run.adapter / "adapters.safetensors") for run in runs.values()]
    assert {k: (v.shape, v.dtype) for k, v in arrays[0].items()} == {
        k: (v.shape, v.dtype) for k, v in arrays[1].items()
    }
    load(str(embedded.model_folder()), adapter_path=str(runs["torch"].adapter))


def test_continuing_from_the_others_adapter(tmp_path: Path) -> None:
    first = finished(tmp_path / "first", "sft", "mlx", optim__lr=5e-3)
    run = finished(tmp_path / "second", "dpo", "torch", adapter__start=str(first.adapter))
    start = run.state().evals[0].metrics
    assert start["margin"] == pytest.approx(0.0, abs=1e-5)
    assert (run.path / "start" / "adapters.safetensors").read_bytes() == (
        first.adapter / "adapters.safetensors"
    ).read_bytes()


def test_killed_and_resumed_on_torch_is_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"train__steps": 4, "train__accumulate": 2, "adapter__dropout": 0.2}
    undisturbed = finished(tmp_path / "a", "orpo", "torch", **settings)
    run = support.new_run(tmp_path / "b", "orpo", backend__name="torch", **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert support.engine(run) == 130
    for leftover in (run.path / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover)
    assert support.engine(run) == 0
    assert losses(run) == losses(undisturbed)
    for name, value in final_adapter(undisturbed).items():
        np.testing.assert_array_equal(final_adapter(run)[name], value)
