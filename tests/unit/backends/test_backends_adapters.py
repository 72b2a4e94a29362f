"""Adapters: how they begin, where they sit, and which saved ones are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_align import backends, embedded
from mlx_align.backends.adapter_init import initial_a
from mlx_align.backends.base import Policy
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.data import collate
from mlx_align.errors import UsageError
from tests import support

CPU = BackendConfig(device="cpu")
LAYERS = 4
ALL = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"} | {
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
}


def fresh(seed: int = 0, model: Path | None = None, **adapter: object) -> Policy:
    config = AdapterConfig(**{"rank": 2, **adapter})
    return backends.create(CPU).load_policy(model or embedded.model_folder(), config, OptimConfig(), seed)


def saved(folder: Path, policy: Policy) -> Path:
    folder.mkdir()
    policy.save_adapter(folder)
    return folder


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, quantised to 4 bits by mlx-lm itself."""
    from mlx_lm.convert import convert

    folder = tmp_path_factory.mktemp("models") / "q4"
    convert(str(embedded.model_folder()), str(folder), quantize=True, q_bits=4, q_group_size=64)
    return folder


# How they begin


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_fresh_adapter_is_exactly_the_base(kind: str) -> None:
    batch = collate(support.examples()[:4])
    base = backends.create(CPU).load_for_generation(embedded.model_folder(), None).logps(batch)
    policy = fresh(type=kind)
    state = policy.adapter_state()
    assert all(not value.any() for name, value in state.items() if name.endswith("lora_b"))
    assert all(value.any() for name, value in state.items() if name.endswith("lora_a"))
    if kind == "lora":
        np.testing.assert_array_equal(policy.logps(batch), base)
    else:  # DoRA divides by the norm it multiplies with
        np.testing.assert_allclose(policy.logps(batch), base, atol=1e-4)


def test_initial_values_depend_on_name_and_seed_only() -> None:
    one = initial_a("model.layers.0.self_attn.q_proj.lora_a", (256, 8), 0)
    np.testing.assert_array_equal(one, initial_a("model.layers.0.self_attn.q_proj.lora_a", (256, 8), 0))
    assert (one != initial_a("model.layers.1.self_attn.q_proj.lora_a", (256, 8), 0)).all()
    assert (one != initial_a("model.layers.0.self_attn.q_proj.lora_a", (256, 8), 1)).all()
    assert one.dtype == np.float32
    bound = 1 / 16
    assert -bound <= one.min() < -0.95 * bound
    assert 0.95 * bound < one.max() <= bound


def test_fewer_modules_do_not_change_the_values_of_the_others() -> None:
    whole, few = fresh().adapter_state(), fresh(modules=("self_attn.q_proj",), layers=1).adapter_state()
    assert few.keys() < whole.keys()
    for name, value in few.items():
        np.testing.assert_array_equal(whole[name], value)
    other = fresh(seed=1).adapter_state()
    assert all((other[name] != whole[name]).any() for name in whole if name.endswith("lora_a"))


# Where they sit


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ("all", ALL),
        ("attention", {name for name in ALL if name.startswith("self_attn")}),
        ("mlp", {name for name in ALL if name.startswith("mlp")}),
        (("q_proj", "mlp.up_proj"), {"self_attn.q_proj", "mlp.up_proj"}),
    ],
)
@pytest.mark.parametrize("layers", ["all", 1, 99])
def test_modules_and_layers(modules: str | tuple[str, ...], expected: set[str], layers: str | int) -> None:
    state = fresh(modules=modules, layers=layers).adapter_state()
    first = LAYERS - layers if layers == 1 else 0
    assert set(state) == {
        f"model.layers.{layer}.{name}.{leaf}"
        for layer in range(first, LAYERS)
        for name in expected
        for leaf in ("lora_a", "lora_b")
    }
    policy = fresh(modules=modules, layers=layers)
    assert policy.trainable_parameters() == sum(value.size for value in state.values())


@pytest.mark.parametrize("modules", [("q_proj", "nope"), ("nope",), ("proj",)])
def test_a_module_that_is_not_there_lists_those_that_are(modules: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=f"no module '{modules[-1]}'") as caught:
        fresh(modules=modules)
    assert caught.value.where == "adapter.modules"
    assert caught.value.hint is not None
    assert all(name in caught.value.hint for name in ALL)


# Quantised bases


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_quantised_base_trains(quantised: Path, kind: str) -> None:
    policy = fresh(model=quantised, type=kind, modules=("self_attn.q_proj", "mlp.down_proj"))
    objective = support.objective("orpo")
    batch = collate(support.examples()[:2])
    policy.accumulate(batch, objective, objective.method.counts(batch, objective.hp), seed=0)
    gradient = {k: v for k, v in policy.training_state().items() if k.startswith("gradient.")}
    assert {name.split(".", 1)[1] for name in gradient} == set(policy.adapter_state())
    assert all(value.any() for name, value in gradient.items() if name.endswith("lora_b"))
    before = policy.logps(batch)
    assert policy.update(1e-2).applied
    assert (policy.logps(batch) != before).any()


def test_a_quantised_model_is_another_model(quantised: Path) -> None:
    batch = collate(support.examples()[:2])
    base, rounded = (
        backends.create(CPU).load_for_generation(folder, None).logps(batch)
        for folder in (embedded.model_folder(), quantised)
    )
    assert (base != rounded).any()


def test_dora_on_a_base_of_odd_bits_is_refused(tmp_path: Path) -> None:
    from mlx_lm.convert import convert

    folder = tmp_path / "q3"
    convert(str(embedded.model_folder()), str(folder), quantize=True, q_bits=3, q_group_size=64)
    with pytest.raises(UsageError, match="quantised to 3 bits") as caught:
        fresh(model=folder, type="dora")
    assert caught.value.where == "adapter.type"


# Saved ones


def test_a_saved_adapter_is_the_same_policy(tmp_path: Path) -> None:
    batch = collate(support.examples()[:2])
    policy = support.policy(AdapterConfig(rank=3, modules="attention", layers=2, type="dora"))
    folder = saved(tmp_path / "adapter", policy)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapters.safetensors"]
    facts = json.loads((folder / "adapter_config.json").read_text())
    assert facts["fine_tune_type"] == "dora"
    assert facts["num_layers"] == 2
    assert (facts["lora_parameters"]["rank"], facts["lora_parameters"]["scale"]) == (3, 2.0)
    for again in (
        backends.create(CPU).load_for_generation(embedded.model_folder(), folder),
        fresh(start=str(folder)),
    ):
        np.testing.assert_array_equal(again.logps(batch), policy.logps(batch))
        assert again.adapter_state().keys() == policy.adapter_state().keys()
        assert again.trainable_parameters() == policy.trainable_parameters()


def refuse(folder: Path) -> UsageError:
    with pytest.raises(UsageError, match="adapter cannot be used with this model") as caught:
        fresh(start=str(folder))
    assert caught.value.where == str(folder)
    assert caught.value.hint is not None
    return caught.value


def test_a_saved_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "adapter", fresh())
    facts = json.loads((folder / "adapter_config.json").read_text())
    facts["lora_parameters"]["rank"] = 3
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    assert "shape" in refuse(folder).message


def test_a_saved_adapter_that_lacks_arrays_is_refused(tmp_path: Path) -> None:
    """They would be what chance gave them: A random and unseeded, B zero."""
    folder = saved(tmp_path / "adapter", fresh())
    arrays = load_file(folder / "adapters.safetensors")
    lost = sorted(arrays)[0]
    del arrays[lost]
    save_file(arrays, folder / "adapters.safetensors")
    assert lost in refuse(folder).message


def test_folders_that_are_no_adapter_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole", fresh())
    for name, content in {
        "adapter_config.json": [None, b"{", b"[]", b"null", b"{}", b'{"fine_tune_type": "full"}'],
        "adapters.safetensors": [None, b"", b"not safetensors"],
    }.items():
        for content_of_one in content:
            folder = tmp_path / "broken"
            shutil.copytree(whole, folder)
            (folder / name).unlink()
            if content_of_one is not None:
                (folder / name).write_bytes(content_of_one)
            refuse(folder)
            shutil.rmtree(folder)


def test_loading_a_state_of_another_adapter_is_refused() -> None:
    policy = fresh()
    state = policy.adapter_state()
    name = sorted(state)[0]
    for wrong in (
        {k: v for k, v in state.items() if k != name},
        {**state, "model.layers.9.x.lora_a": state[name]},
        {**state, name: state[name][:-1]},
    ):
        with pytest.raises(UsageError, match="another shape"):
            policy.load_adapter_state(wrong)


# The base


def test_a_base_with_a_weight_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(embedded.model_folder(), model)
    weights = {k: v.copy() for k, v in load_file(model / "model.safetensors").items()}
    weights["model.norm.weight"][3] = np.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "mlx"})
    with pytest.raises(UsageError, match=r"'model\.norm\.weight' is not finite"):
        fresh(model=model)


def test_an_architecture_that_mlx_lm_does_not_know(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(embedded.model_folder(), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "telepathy"}))
    with pytest.raises(UsageError, match="mlx-lm cannot load this model") as caught:
        fresh(model=model)
    assert caught.value.where == str(model)


def test_the_device_says_what_it_is() -> None:
    backend = backends.create(CPU)
    assert backend.device == "mlx:cpu"
    assert set(backend.versions()) == {"mlx", "mlx-lm"}
    use = backend.memory()
    assert 0 < use.active <= use.peak
    assert use.limit > 0
