"""The torch backend by itself: devices, refusals and memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from mlx_align import backends, embedded, installing
from mlx_align.backends.base import Policy
from mlx_align.backends.torch import memory
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.data import collate
from mlx_align.engine.guards import MemoryWatch
from mlx_align.errors import UsageError
from tests import support

CPU = BackendConfig(name="torch", device="cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bare(config: BackendConfig = CPU, model: Path | None = None) -> Policy:
    return backends.create(config).load_for_generation(model or embedded.model_folder(), None)


def copy_of_the_model(folder: Path, **facts: object) -> Path:
    shutil.copytree(embedded.model_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **facts}))
    return folder


# Devices


def test_the_device_has_a_name() -> None:
    assert backends.create(CPU).device == "torch:cpu"
    assert {"torch", "peft"} == set(backends.create(CPU).versions())


@pytest.mark.parametrize("device", ["gpu", "cuda", "mps"])
@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_a_device_that_is_not_there(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlx.core as mx

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(mx, "is_available", lambda device: False)
    with pytest.raises(UsageError, match="sees no") as caught:
        backends.create(BackendConfig(name=name, device=device))
    assert caught.value.where == "backend.device"
    assert backends.create(BackendConfig(name=name)).device == f"{name}:cpu"


def test_the_best_device_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_align.backends.torch.backend import choose_device

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(wanted) for wanted in ("auto", "gpu", "mps", "cpu")] == ["mps", "mps", "mps", "cpu"]
    with pytest.raises(UsageError, match="sees no cuda"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"


def test_four_bits_are_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"name": "mlx"}, {"name": "torch", "device": "cpu"}, {"name": "torch", "device": "mps"}):
        with pytest.raises(ValidationError, match="needs name 'torch' and device 'cuda'"):
            BackendConfig(quantize="nf4", **wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="needs an NVIDIA GPU"):
        backends.create(BackendConfig(name="torch", quantize="nf4"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("mlx_align.backends.torch.backend.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="bitsandbytes is not installed") as caught:
        backends.create(BackendConfig(name="torch", quantize="nf4"))
    assert caught.value.hint is not None
    assert "bnb" in caught.value.hint


def test_without_torch_it_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mlx_align import backends, errors\n"
        "from mlx_align.config import BackendConfig\n"
        "try: backends.create(BackendConfig(name='torch'))\n"
        "except errors.UsageError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "cannot be loaded" in said
    assert installing.command("torch") in said


# Models


def test_a_base_quantised_by_mlx_is_refused(tmp_path: Path) -> None:
    folder = copy_of_the_model(tmp_path / "model", quantization={"group_size": 64, "bits": 4})
    with pytest.raises(UsageError, match="quantised to 4 bits by MLX"):
        bare(model=folder)


def test_a_missing_weight_is_not_made_up(tmp_path: Path) -> None:
    folder = copy_of_the_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file({k: v for k, v in weights.items() if k != name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=f"weights are missing, first '{name}'"):
        bare(model=folder)


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    folder = copy_of_the_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name][0, 0] = np.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=f"'{name}' is not finite"):
        bare(model=folder)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="transformers cannot load"):
        bare(model=copy_of_the_model(tmp_path / "model", model_type="nonsense"))
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        bare(model=tmp_path / "nothing")


def test_a_configuration_of_wrong_types_is_refused(tmp_path: Path) -> None:
    facts = {"model_type": "phi3", "original_max_position_embeddings": [4096]}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match="original_max_position_embeddings"):
        bare(model=tmp_path)


def test_masters_are_float32_on_a_bfloat16_base() -> None:
    config = BackendConfig(name="torch", device="cpu", dtype="bfloat16")
    for kind in ("lora", "dora"):
        policy = backends.create(config).load_policy(
            embedded.model_folder(), AdapterConfig(type=kind, rank=2), OptimConfig(), 0
        )
        assert {value.dtype for value in policy.adapter_state().values()} == {np.dtype(np.float32)}
        batch, objective = collate(support.examples()[:2]), support.objective("orpo")
        scores = policy.accumulate(batch, objective, objective.method.counts(batch, objective.hp), seed=0)
        assert scores.logps.dtype == np.float32
        assert policy.update(1e-3).applied


# Adapters


@pytest.mark.parametrize("damage", ["another shape", "an array missing", "no facts", "another layer"])
def test_an_adapter_that_does_not_fit_is_refused(damage: str, tmp_path: Path) -> None:
    support.policy(AdapterConfig(rank=2), backend="torch").save_adapter(tmp_path)
    weights, facts = tmp_path / "adapters.safetensors", tmp_path / "adapter_config.json"
    state = load_file(weights)
    first = min(state)
    if damage == "another shape":
        save_file({**state, first: state[first][:-1].copy()}, weights)
    elif damage == "an array missing":
        save_file({name: value for name, value in state.items() if name != first}, weights)
    elif damage == "another layer":
        save_file({**state, "model.layers.77.mlp.up_proj.lora_a": state[first]}, weights)
    else:
        facts.unlink()
    with pytest.raises(UsageError, match="cannot be used with this model") as caught:
        backends.create(CPU).load_for_generation(embedded.model_folder(), tmp_path)
    assert caught.value.where == str(tmp_path)


def test_an_update_that_is_not_finite_changes_nothing() -> None:
    policy, objective = support.policy(backend="torch"), support.objective("sft")
    batch = collate(support.examples("completion")[:2])
    batch.response_mask[0] *= np.nan
    before, slots = policy.adapter_state(), policy.training_state()
    policy.accumulate(batch, objective, {"nll": 10.0}, seed=0)
    update = policy.update(1e-3)
    assert not update.applied
    assert not np.isfinite(update.grad_norm)
    assert all((value == before[name]).all() for name, value in policy.adapter_state().items())
    assert all((value == slots[name]).all() for name, value in policy.training_state().items())


@pytest.mark.parametrize("limit", [0.0, 1e-3, 1e3])
def test_clipping_is_the_same_on_both(limit: float) -> None:
    batch, objective = collate(support.examples("completion")[:2]), support.objective("sft")
    optim = OptimConfig(name="muon", lr=0.1, max_grad_norm=limit)  # whose momentum shows the gradient's size
    states, norms = [], []
    for backend in ("mlx", "torch"):
        policy = support.policy(optim=optim, backend=backend)
        policy.accumulate(batch, objective, {"nll": 5.0}, seed=0)
        norms.append(policy.update(0.1).grad_norm)
        states.append(policy.training_state())
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=1e-2, atol=1e-4 * np.abs(value).max())


# Memory


def test_memory_is_the_processs() -> None:
    use = bare().memory()
    assert 10_000_000 < use.peak < use.limit
    if memory.STATM.exists():
        assert 10_000_000 < use.active <= use.peak


def test_a_peak_is_not_taken_for_what_is_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the system tells no more, as macOS: a peak never falls, and it would look like a leak."""
    monkeypatch.setattr(memory, "STATM", tmp_path / "none")
    watch, told = MemoryWatch(), []
    for peak in range(10**9, 5 * 10**9, 10**8):
        monkeypatch.setattr(memory, "_peak_of_process", lambda peak=peak: peak)
        use = memory.memory_use("cpu")
        assert (use.active, use.peak) == (0, peak)
        told.append(watch.look(use))
    assert not any(told)
