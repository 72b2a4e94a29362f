"""An adapter that peft made is the same policy here; ours comes back from peft's format unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mlx_align import backends, embedded
from mlx_align.config import AdapterConfig, BackendConfig
from mlx_align.errors import UsageError
from mlx_align.export import adapter as adapters
from mlx_align.export import importing
from mlx_align.export.base import Base
from mlx_align.export.formats import peft as peft_format
from mlx_align.export.provenance import Provenance
from tests import support

ATOL = 1e-4
PROMPTS = np.random.default_rng(0).integers(0, 1024, (3, 40)).tolist()
FolderOf = Callable[[str], Path]


def made_by_peft(model: Path, folder: Path, **config: Any) -> NDArray[np.float32]:
    """Save an adapter as peft does, with random numbers in it.

    Returns:
        (N, V) its log-probabilities after the prompts.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 8, **config}))
    for name, parameter in adapted.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= 0.5 + torch.rand_like(parameter)
        elif "lora_" in name:
            parameter.data.copy_(0.1 * torch.randn_like(parameter))  # in place: some share their memory
    adapted.save_pretrained(folder)
    with torch.no_grad():
        logits = adapted.eval()(input_ids=torch.tensor(PROMPTS)).logits[:, -1]
    return logits.log_softmax(dim=-1).numpy()


def ours(model: Path, folder: Path) -> NDArray[np.float32]:
    backend = backends.create(BackendConfig(name="mlx", device="cpu"))
    return backend.load_for_generation(model, folder).next_logps(PROMPTS)


LINEAR = ["q_proj", "o_proj", "up_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama", {"target_modules": "all-linear", "lora_dropout": 0.1}),
        ("llama", {"target_modules": LINEAR, "use_rslora": True}),
        ("llama", {"target_modules": LINEAR, "use_dora": True}),
        ("llama", {"target_modules": LINEAR, "rank_pattern": {"q_proj": 6, "layers.1.mlp.up_proj": 2}}),
        ("llama", {"target_modules": LINEAR, "rank_pattern": {"o_proj": 2}, "alpha_pattern": {"o_proj": 3}}),
        ("llama", {"target_modules": LINEAR, "layers_to_transform": [0], "layers_pattern": "layers"}),
        ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"], "layers_to_transform": [1, 2]}),
        ("llama", {"target_modules": [*LINEAR, "lm_head", "embed_tokens"]}),
        ("qwen3", {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}),
        ("qwen2_moe", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
        ("qwen2_moe", {"target_modules": [], "target_parameters": EXPERTS[:1], "lora_alpha": 3}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")  # peft's own, about embeddings and patterns
def test_what_peft_made(name: str, config: dict[str, Any], folder_of: FolderOf, tmp_path: Path) -> None:
    model = folder_of(name)
    wanted = made_by_peft(model, tmp_path / "theirs", **config)
    importing.convert(tmp_path / "theirs", Base.open(model), tmp_path / "ours")
    error = float(np.abs(ours(model, tmp_path / "ours") - wanted).max())
    print(f"largest difference {error:.1e}")
    assert error < ATOL


def experts_one_by_one(folder: Path, *, dora: bool = False) -> Path:
    """An adapter as peft saved it while transformers had a module for each expert."""
    rng, arrays = np.random.default_rng(4), {}
    sizes = {"gate_proj": (64, 48), "up_proj": (64, 48), "down_proj": (48, 64)}
    for expert in range(4):
        for part, (into, out) in sizes.items():
            name = f"base_model.model.model.layers.1.mlp.experts.{expert}.{part}"
            arrays[f"{name}.lora_A.weight"] = rng.normal(0, 0.1, (4, into)).astype(np.float32)
            arrays[f"{name}.lora_B.weight"] = rng.normal(0, 0.1, (out, 4)).astype(np.float32)
            if dora:
                arrays[f"{name}.lora_magnitude_vector"] = np.ones(out, np.float32)
    facts = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 12,
        "target_modules": [*sizes],
        "use_dora": dora,
    }
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    save_file(arrays, folder / "adapter_model.safetensors")
    return folder


def test_dora_on_experts_is_refused(folder_of: FolderOf, tmp_path: Path) -> None:
    theirs = experts_one_by_one(tmp_path / "theirs", dora=True)
    with pytest.raises(UsageError, match="DoRA on experts"):
        importing.convert(theirs, Base.open(folder_of("qwen3_moe")), tmp_path / "ours")


def test_experts_one_by_one(folder_of: FolderOf, tmp_path: Path) -> None:
    """Transformers fuses them when it loads."""
    experts_one_by_one(tmp_path / "theirs")
    model = folder_of("qwen3_moe")
    everything = np.tile(np.arange(1024), (len(PROMPTS), 1))
    wanted = backends.torch_reader(model, tmp_path / "theirs").next_logps(PROMPTS, everything)
    importing.convert(tmp_path / "theirs", Base.open(model), tmp_path / "ours")
    assert np.abs(ours(model, tmp_path / "ours") - wanted).max() < ATOL
    assert np.abs(backends.torch_reader(model).next_logps(PROMPTS, everything) - wanted).max() > 0.1


@pytest.mark.parametrize("name", ["llama", "qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_there_and_back(name: str, kind: str, folder_of: FolderOf, tmp_path: Path) -> None:
    modules = "attention" if kind == "dora" else "all"
    policy = support.policy(
        AdapterConfig(rank=4, scale=0.7, type=kind, layers=2, modules=modules), model=folder_of(name)
    )
    there, back = tmp_path / "there", tmp_path / "back"
    for folder in (tmp_path / "ours", there):
        folder.mkdir()
    policy.save_adapter(tmp_path / "ours")
    base = Base.open(folder_of(name))
    provenance = Provenance("a-run", "orpo", "owner/base", None, "", "", "", 7, "")
    peft_format.write(there, adapters.read(tmp_path / "ours"), base, provenance)
    importing.convert(there, base, back)
    before, after = (load_file(folder / adapters.WEIGHTS) for folder in (tmp_path / "ours", back))
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)
    old, new = (json.loads((folder / adapters.CONFIG).read_text()) for folder in (tmp_path / "ours", back))
    assert new["lora_parameters"]["scale"] == pytest.approx(old["lora_parameters"]["scale"], rel=1e-15)
    ours(folder_of(name), back)


@pytest.mark.filterwarnings("ignore")
def test_a_run_starts_from_it(tmp_path: Path) -> None:
    made_by_peft(embedded.model_folder(), tmp_path / "theirs", target_modules=LINEAR)
    importing.convert(tmp_path / "theirs", Base.open(embedded.model_folder()), tmp_path / "start")
    run = support.new_run(tmp_path / "runs", adapter__start=str(tmp_path / "start"))
    assert support.engine(run) == 0, run.log.read_text()
