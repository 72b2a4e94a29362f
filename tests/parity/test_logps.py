"""Per-token log-probabilities of mlx-lm and transformers agree, with an adapter that matters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlx_align.backends.base import Policy, Sampling
from mlx_align.backends.positions import Positions
from mlx_align.config import AdapterConfig
from mlx_align.data import collate
from tests import support
from tests.parity.architectures import ARCHITECTURES, WINDOW

ATOL = 1e-4
BATCH = collate(support.examples()[:4], pad_to=8)


def both(
    model: Path, kind: str, layers: int | str = "all", longest: int | None = None, **adapter: object
) -> dict[str, Policy]:
    """The same model and adapter on both backends."""
    config = AdapterConfig(type=kind, rank=4, layers=layers, **adapter)
    return {
        name: support.policy(config, backend=name, model=model, spread=0.2, longest=longest)
        for name in ("mlx", "torch")
    }


def assert_agree(policies: dict[str, Policy]) -> None:
    """The same log-probabilities, and without the adapter others."""
    logps = {name: policy.logps(BATCH) for name, policy in policies.items()}
    assert (logps["torch"][BATCH.branch_mask == 0] == 0).all()
    error = float(np.abs(logps["mlx"] - logps["torch"]).max())
    print(f"largest difference {error:.1e}")
    assert error < ATOL
    torch = policies["torch"]
    state = torch.adapter_state()
    torch.load_adapter_state({k: v * (0 if k.endswith("lora_b") else 1) for k, v in state.items()})
    assert np.abs(torch.logps(BATCH) - logps["torch"]).max() > 0.1, "the adapter changes nothing"


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_random_models(name: str, kind: str, folder_of: Callable[[str], Path]) -> None:
    assert BATCH.branch_mask.sum(axis=1).max() > WINDOW // 2
    assert int(BATCH.prompt_lens.min()) > WINDOW, "the window would never be left"
    assert_agree(both(folder_of(name), kind))


TURNED: dict[str, dict[str, object]] = {
    "llama": {
        "rope_theta": 500.0,
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "qwen2": {"rope_theta": 500.0, "rope_type": "default"},
    "qwen3_moe": {"rope_theta": 500.0, "rope_type": "default"},
    "mistral": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0},
    "gemma3_text": {
        "full_attention": {"rope_theta": 5000.0, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
    },
}


@pytest.mark.parametrize("name", TURNED)
def test_positions_in_the_words_of_transformers_5(
    name: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """mlx-lm reads `rope_parameters` of few architectures, and takes a default where the rest is missing."""
    folder = tmp_path / name
    shutil.copytree(folder_of(name), folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_theta", "rope_scaling", "rope_local_base_freq"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": TURNED[name]}))
    assert_agree(both(folder, "lora", modules="attention"))


@pytest.mark.parametrize(
    ("border", "longest"),
    [(512, None), (WINDOW, None), (512, 513), (WINDOW, WINDOW)],
    ids=["short", "long", "settled long", "settled short"],
)
def test_longrope(border: int, longest: int | None, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Below the border and above it, where prompts and answers must be read in the same way."""
    assert int(BATCH.prompt_lens.min()) > WINDOW
    assert BATCH.prompt_ids.shape[1] + BATCH.branch_ids.shape[1] < 512
    folder = tmp_path / "phi3"
    shutil.copytree(folder_of("phi3"), folder)
    config = json.loads((folder / "config.json").read_text())
    factors = {"short_factor": [1.0 + n / 8 for n in range(8)], "long_factor": [2.0 + n for n in range(8)]}
    short = {"original_max_position_embeddings": border}
    scaling = {"type": "longrope", "rope_type": "longrope", **factors, **short}
    changes = {"rope_scaling": scaling, "rope_parameters": None, **short}
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    policies = both(folder, "lora", longest=longest)
    chosen = Positions(border, None if longest is None else longest > border)
    assert [policy.positions for policy in policies.values()] == [chosen] * 2
    prompts = [example.prompt_ids[: 20 + 7 * i] for i, example in enumerate(support.examples()[:4])]
    torch, mlx = (
        policies[backend].generate(prompts, sampling=Sampling(max_tokens=8), stop_ids=[1023])
        for backend in ("torch", "mlx")
    )
    assert torch == mlx
    assert_agree(policies)  # which takes one adapter away


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_embedded_model(kind: str) -> None:
    from mlx_align import embedded

    assert_agree(both(embedded.model_folder(), kind))


@pytest.mark.parametrize("name", ["qwen3", "phi3"])
def test_chosen_modules_and_layers(name: str, folder_of: Callable[[str], Path]) -> None:
    policies = both(folder_of(name), "lora", layers=2, modules="attention")
    names = {backend: sorted(policy.adapter_state()) for backend, policy in policies.items()}
    assert names["mlx"] == names["torch"]
    assert {n.split(".")[2] for n in names["torch"]} == {"1", "2"}
    assert all("attn" in n for n in names["torch"])
    assert_agree(policies)


def test_the_first_adapter_is_the_same(folder_of: Callable[[str], Path]) -> None:
    for kind in ("lora", "dora"):
        config = AdapterConfig(type=kind, rank=4)
        states = [
            support.policy(config, backend=name, model=folder_of("llama"), spread=0.0).adapter_state()
            for name in ("mlx", "torch")
        ]
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            if name.endswith(".m"):  # a norm over a row: the two sum it in another order
                np.testing.assert_allclose(states[1][name], value, rtol=1e-6)
            else:
                np.testing.assert_array_equal(states[1][name], value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_answers_are_the_same(name: str, folder_of: Callable[[str], Path]) -> None:
    """Prompts of several lengths side by side, so padding on the left must not be seen."""
    prompts = [example.prompt_ids[: 20 + 7 * i] for i, example in enumerate(support.examples()[:4])]
    policies = both(folder_of(name), "lora")
    torch, mlx = (
        policies[backend].generate(prompts, sampling=Sampling(max_tokens=8), stop_ids=[1023])
        for backend in ("torch", "mlx")
    )
    assert torch == mlx
