"""A plan for a model of the hub that is not here: its headers are read there, and its weights stay there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, Repo, reached
from huggingface_hub import constants
from safetensors.numpy import load, save

from mlx_align import api, embedded
from mlx_align.engine.planning import Forecast
from mlx_align.errors import AlignError, UsageError
from mlx_align.hub import is_missing, outline, resolve_model
from mlx_align.settings import gather, resolve
from mlx_align.weights import INDEX

HEADER = 100_001
"""Bytes that the hub's library asks of a file at first."""


def files() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in embedded.model_folder().iterdir() if file.is_file()}


def sharded() -> dict[str, bytes]:
    """The same model in two files, the way those come that have it a second time."""
    made = files()
    weights = load(made.pop("model.safetensors"))
    names = sorted(weights)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    made |= {file: save({name: weights[name] for name in part}) for file, part in parts.items()}
    made["consolidated.safetensors"] = save({f"layers.{name}": weights[name] for name in names})
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    return {**made, INDEX: json.dumps(index).encode()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    repos = {
        "org/one": Repo(files()),
        "org/twice": Repo(sharded()),
        "org/broken": Repo({**files(), "model.safetensors": b"\xff" * 64}),
        "org/gguf": Repo({"config.json": b"{}", "model.gguf": b"GGUF"}),
        "org/odd": Repo({**files(), "config.json": b'{"model_type": "llama"}'}),
    }
    with FakeHub(repos) as server, reached(server, tmp_path, monkeypatch):
        yield server


def planned(model: str) -> Forecast:
    return api.estimate(resolve(gather("orpo", flags={"model.path": model, "backend.device": "cpu"})))


@pytest.mark.parametrize("name", ["org/one", "org/twice"])
def test_the_figures_are_those_of_the_folder_and_no_weights_come(name: str, hub: FakeHub) -> None:
    plan = planned(name).plan
    assert plan.footprint == planned(embedded.TINY_CHAT).plan.footprint
    weights = {path: count for path, count in hub.served.items() if path.endswith(".safetensors")}
    assert weights
    assert max(weights.values()) <= HEADER
    assert "consolidated.safetensors" not in weights
    assert is_missing(name), "what a plan leaves in the cache is not taken for the model"
    hub.sent.clear()
    folder = resolve_model(name).folder
    assert planned(name).plan == planned(str(folder)).plan == plan
    assert all(path.endswith(".safetensors") for path in hub.sent), "nothing else is fetched again"


def test_a_model_in_the_cache_is_planned_without_the_hub(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    resolve_model("org/one")
    hub.shut_down()
    capsys.readouterr()
    assert planned("org/one").plan.total
    assert capsys.readouterr().err == ""


def test_a_long_header_is_read_to_its_end(hub: FakeHub) -> None:
    weights = load(files()["model.safetensors"])
    data = save(weights, metadata={"note": "x" * HEADER})
    hub.repos["org/one"].files["model.safetensors"] = data
    assert planned("org/one").plan.footprint == planned(embedded.TINY_CHAT).plan.footprint
    assert hub.served["model.safetensors"] < 4 * HEADER < len(data)


@pytest.mark.parametrize(
    ("name", "said", "where"),
    [
        ("org/gguf", "the folder is not a model", "org/gguf"),
        ("org/broken", "the weights cannot be read", "org/broken/model.safetensors"),
        ("org/odd", "config.json says nothing usable", "org/odd"),
        ("org/none", "the hub has no model", None),
    ],
)
def test_what_cannot_be_planned(name: str, said: str, where: str | None, hub: FakeHub) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        planned(name)
    assert caught.value.where == where


def test_without_the_hub_there_are_no_headers(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    planned("org/one")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AlignError, match="not in the cache"), outline("org/one"):
        pass
