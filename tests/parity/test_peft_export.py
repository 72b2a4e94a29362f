"""An exported PEFT adapter, loaded by peft as a stranger would, is the policy that was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_align import backends
from mlx_align.backends.base import Policy
from mlx_align.config import AdapterConfig, BackendConfig
from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base
from mlx_align.export.formats import peft
from mlx_align.export.provenance import Provenance
from tests import support
from tests.parity.architectures import COMMON

ATOL = 1e-4
VOCABULARY = COMMON["vocab_size"]
PROMPTS = np.random.default_rng(0).integers(0, VOCABULARY, (3, 40)).tolist()
PROVENANCE = Provenance("a-run", "orpo", "owner/base", None, "0" * 64, "1" * 64, "2" * 64, 7, "")
FolderOf = Callable[[str], Path]


def ours(model: Path, folder: Path | None) -> NDArray[np.float32]:
    """(N, V) log-probabilities under a saved adapter in mlx-lm's format."""
    backend = backends.create(BackendConfig(name="mlx", device="cpu"))
    return backend.load_for_generation(model, folder).next_logps(PROMPTS)


def theirs(model: Path, folder: Path | None) -> NDArray[np.float32]:
    """(N, V) log-probabilities under an adapter in PEFT's format."""
    everything = np.tile(np.arange(VOCABULARY), (len(PROMPTS), 1))
    return backends.torch_reader(model, folder).next_logps(PROMPTS, everything)


def exported(folder: Path, adapter: Adapter, model: Path) -> Path:
    folder.mkdir()
    peft.write(folder, adapter, Base.open(model), PROVENANCE)
    return folder


def trained(model: Path, folder: Path, **config: object) -> tuple[Policy, Adapter]:
    """A policy whose adapter changes much, and that adapter as a run leaves it."""
    policy = support.policy(AdapterConfig(rank=4, **config), model=model, spread=0.2)
    folder.mkdir()
    policy.save_adapter(folder)
    return policy, adapters.read(folder)


def random_adapter(model: Path, names: list[str], rank: int = 4) -> Adapter:
    """An adapter on the modules of these names."""
    rng, base, modules = np.random.default_rng(2), Base.open(model), {}
    for name in names:
        *stack, rows, columns = base.shape(name)
        embedding = name.endswith("embed_tokens")
        into, out = (rows, columns) if embedding else (columns, rows)
        a = rng.normal(0, 0.3 if embedding else 0.1, (*stack, rank, into)).astype(np.float32)
        modules[name] = Module(a, rng.normal(0, 0.1, (*stack, out, rank)).astype(np.float32), None, embedding)
    return Adapter(modules, 2.5, 0.0, adapters.describe(modules, base.layers, 2.5, 0.0))


def assert_same(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    error = float(np.abs(found - wanted).max())
    print(f"largest difference {error:.1e}")
    assert error < ATOL


def assert_other(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert np.abs(found - wanted).max() > 0.1


@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "qwen3_moe", "qwen2_moe", "olmoe"]
)
def test_every_linear_layer(name: str, folder_of: FolderOf, tmp_path: Path) -> None:
    policy, adapter = trained(folder_of(name), tmp_path / "ours")
    assert_same(theirs(folder_of(name), exported(tmp_path / "peft", adapter, folder_of(name))),
                policy.next_logps(PROMPTS))  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_moe"])
def test_dora(name: str, folder_of: FolderOf, tmp_path: Path) -> None:
    modules = "attention" if name == "qwen3_moe" else "all"
    _, adapter = trained(folder_of(name), tmp_path / "start", type="dora", modules=modules)
    assert adapter.dora
    rng = np.random.default_rng(3)
    louder = {
        path: replace(module, magnitude=module.magnitude * rng.uniform(0.5, 1.5, module.magnitude.shape))
        for path, module in adapter.modules.items()
        if module.magnitude is not None
    }
    adapter = replace(adapter, modules=louder)
    (tmp_path / "ours").mkdir()
    adapters.write(tmp_path / "ours", adapter)
    found = theirs(folder_of(name), exported(tmp_path / "peft", adapter, folder_of(name)))
    assert_same(found, ours(folder_of(name), tmp_path / "ours"))
    assert_other(found, ours(folder_of(name), tmp_path / "start"))


def test_some_layers(folder_of: FolderOf, tmp_path: Path) -> None:
    policy, adapter = trained(folder_of("qwen3"), tmp_path / "ours", layers=2, modules="attention")
    folder = exported(tmp_path / "peft", adapter, folder_of("qwen3"))
    facts = json.loads((folder / "adapter_config.json").read_text())
    assert (facts["layers_to_transform"], facts["layers_pattern"]) == ([1, 2], "layers")
    assert facts["target_modules"] == [f"self_attn.{part}_proj" for part in "koqv"]
    assert_same(theirs(folder_of("qwen3"), folder), policy.next_logps(PROMPTS))


UNEVEN = ["model.layers.0.self_attn.q_proj", "model.layers.2.self_attn.q_proj", "model.layers.2.mlp.up_proj"]


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("llama", UNEVEN),
        ("llama", ["lm_head", "model.embed_tokens", *UNEVEN]),
        ("llama", ["lm_head"]),
        ("qwen3", ["model.embed_tokens", "model.layers.1.self_attn.q_proj"]),  # which is the output too
        ("gemma3_text", ["model.embed_tokens"]),  # which is multiplied by the width's square root besides
        ("qwen2_moe", ["model.layers.1.mlp.switch_mlp.gate_proj", "model.layers.2.mlp.switch_mlp.down_proj"]),
        ("qwen2_moe", ["model.layers.1.mlp.switch_mlp.up_proj", "model.layers.1.mlp.switch_mlp.down_proj"]),
    ],
)
def test_odd_choices(name: str, modules: list[str], folder_of: FolderOf, tmp_path: Path) -> None:
    adapter = random_adapter(folder_of(name), modules)
    (tmp_path / "ours").mkdir()
    adapters.write(tmp_path / "ours", adapter)
    wanted = ours(folder_of(name), tmp_path / "ours")
    assert_same(theirs(folder_of(name), exported(tmp_path / "peft", adapter, folder_of(name))), wanted)
    assert_other(wanted, ours(folder_of(name), None))


def test_mistakes_would_be_seen(folder_of: FolderOf, tmp_path: Path) -> None:
    policy, adapter = trained(folder_of("qwen3_moe"), tmp_path / "ours")
    wanted = policy.next_logps(PROMPTS)
    assert_other(theirs(folder_of("qwen3_moe"), None), wanted)
    folder = exported(tmp_path / "peft", adapter, folder_of("qwen3_moe"))
    facts = json.loads((folder / "adapter_config.json").read_text())
    # The alpha of most modules, and that of the experts' gates and ups.
    for key, wrong in (("lora_alpha", 1), ("alpha_pattern", {})):
        assert facts[key] != wrong
        (folder / "adapter_config.json").write_text(json.dumps({**facts, key: wrong}))
        assert_other(theirs(folder_of("qwen3_moe"), folder), wanted)
