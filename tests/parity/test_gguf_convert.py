"""A GGUF that was written from Hugging Face weights answers in llama.cpp as the model does in mlx-lm."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base
from mlx_align.export.gguf import convert
from mlx_align.export.llama import LlamaReader
from mlx_align.export.provenance import Provenance
from tests.parity import architectures

FolderOf = Callable[[str], Path]
Change = Callable[..., Path]

PROVENANCE = Provenance("a-run", "orpo", "owner/base", None, "0" * 64, "1" * 64, "2" * 64, 7, "")
VOCABULARY = architectures.COMMON["vocab_size"]
PROMPTS = [np.random.default_rng(n).integers(0, VOCABULARY, n).tolist() for n in (1, 7, 100)]
LIMIT = 1e-3
"""Of the difference between two probabilities."""

NAMES = ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "phi3"]
NEAR = {"f16": 1e-4, "bf16": 1e-3, "q8_0": 4e-3, "q5_1": 0.02, "q4_0": 0.04}
"""How far each type's rounding may move a probability of a small random model."""

EVERY_LAYER = {"decoder_sparse_step": 1}
"""Experts in every layer, which is what llama.cpp knows."""


@pytest.fixture(scope="module")
def model(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """The folder of a tiny model, by architecture."""

    @cache
    def mixture() -> Path:
        with pytest.MonkeyPatch.context() as patch:
            facts = architectures.MIXTURES["qwen3_moe"] | EVERY_LAYER
            patch.setitem(architectures.MIXTURES, "qwen3_moe", facts)
            return architectures.build("qwen3_moe", tmp_path_factory.mktemp("every-layer"))

    return lambda name: mixture() if name == "qwen3_moe" else folder_of(name)


@pytest.fixture
def changed(model: FolderOf, tmp_path: Path) -> Change:
    """A model with other keys in its config.json."""

    def of(name: str, **facts: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in model(name).iterdir():
            (folder / file.name).symlink_to(file)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(config | facts), encoding="utf-8")
        return folder

    return of


def in_mlx(folder: Path, adapter: Path | None = None) -> NDArray[np.float64]:
    """(N, V) probabilities of the token after each of `PROMPTS`, by mlx-lm."""
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    loaded, _ = load_model(folder)
    if adapter is not None:
        loaded = load_adapters(loaded, str(adapter))
    rows = [mx.softmax(loaded(mx.array([prompt]))[0, -1].astype(mx.float32)) for prompt in PROMPTS]
    return np.array(mx.stack(rows), dtype=np.float64)


def in_llama(file: Path, context: int = 256) -> NDArray[np.float64]:
    """The same by llama.cpp."""
    everything = np.tile(np.arange(VOCABULARY), (len(PROMPTS), 1))
    with LlamaReader(file, context=context) as reader:
        return np.exp(reader.next_logps(PROMPTS, everything).astype(np.float64))


def converted(folder: Path, file: Path, adapter: Adapter | None = None, kind: str = "f32") -> Path:
    """The new GGUF."""
    convert.write(file, Base.open(folder), adapter, PROVENANCE, kind)
    return file


def distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The largest difference between two probabilities of the same token."""
    largest = float(np.abs(one - other).max())
    print(f"largest difference {largest:.1e}")
    return largest


def some_adapter(base: Base, names: Sequence[str]) -> Adapter:
    """Random values on modules of the last layer and on the embedding, large enough to matter."""
    rng = np.random.default_rng(3)

    def values(*shape: int) -> NDArray[np.float32]:
        return (0.3 * rng.standard_normal(shape)).astype(np.float32)

    modules: dict[str, Module] = {}
    for name in [f"model.layers.{base.layers - 1}.{name}" for name in names]:
        *experts, out, width = base.shape(name)
        modules[name] = Module(values(*experts, 4, width), values(*experts, out, 4))
    rows, width = base.shape("model.embed_tokens")
    modules["model.embed_tokens"] = Module(values(4, rows), values(width, 4), embedding=True)
    return Adapter(modules, 2.0, 0.0, adapters.describe(modules, base.layers, 2.0, 0.0))


@pytest.mark.parametrize("name", NAMES)
def test_base(name: str, model: FolderOf, tmp_path: Path) -> None:
    file = converted(model(name), tmp_path / "base.gguf")
    assert distance(in_llama(file), in_mlx(model(name))) < LIMIT / 5


def test_the_order_of_rows_is_seen(model: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "permuted", lambda values, heads: values)
    file = converted(model("llama"), tmp_path / "wrong.gguf")
    assert distance(in_llama(file), in_mlx(model("llama"))) > 10 * LIMIT


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
STRETCHED = {
    "llama3": LLAMA3,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
}


@pytest.mark.parametrize("kind", STRETCHED)
def test_stretched_positions(kind: str, model: FolderOf, changed: Change, tmp_path: Path) -> None:
    folder = changed("llama", rope_scaling=STRETCHED[kind])
    expected = in_mlx(folder)
    assert distance(expected, in_mlx(model("llama"))) > 10 * LIMIT, "nothing is stretched"
    assert distance(in_llama(converted(folder, tmp_path / "model.gguf")), expected) < LIMIT / 5


def test_transformers_5_names(changed: Change, tmp_path: Path) -> None:
    old = converted(changed("llama", rope_scaling=LLAMA3, rope_theta=500.0), tmp_path / "old.gguf")
    (tmp_path / "llama").rename(tmp_path / "before")
    new = changed("llama", rope_scaling=None, rope_theta=None, rope_parameters=LLAMA3 | {"rope_theta": 500.0})
    assert converted(new, tmp_path / "new.gguf").read_bytes() == old.read_bytes()


def test_longrope_is_that_of_transformers(changed: Change, tmp_path: Path) -> None:
    """In a short context: the short factors, as llama.cpp takes them too; mlx-lm has the long ones only."""
    import torch
    from transformers import AutoModelForCausalLM

    factors = {"short_factor": [1.0 + n / 8 for n in range(8)], "long_factor": [2.0 + n for n in range(8)]}
    border = {"original_max_position_embeddings": 512}
    scaling = {"type": "longrope", "rope_type": "longrope", **factors, **border}
    folder = changed("phi3", rope_scaling=scaling, rope_parameters=None, **border)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        rows = [theirs(torch.tensor([prompt])).logits[0, -1].softmax(-1) for prompt in PROMPTS]
    expected = torch.stack(rows).double().numpy()
    file = converted(folder, tmp_path / "model.gguf")
    assert distance(in_llama(file, context=512), expected) < LIMIT / 5
    assert distance(in_llama(file, context=1024), expected) > LIMIT, "the long factors make no difference"


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gemma3_text"])
def test_merged(name: str, model: FolderOf, tmp_path: Path) -> None:
    base, mlp = Base.open(model(name)), "mlp.switch_mlp" if name == "qwen3_moe" else "mlp"
    attention = ["self_attn.q_proj", "self_attn.k_proj"]
    adapter = some_adapter(base, [*attention, f"{mlp}.gate_proj", f"{mlp}.down_proj"])
    adapters.write(tmp_path, adapter)
    file = converted(model(name), tmp_path / "merged.gguf", adapter)
    expected = in_mlx(model(name), tmp_path)
    assert distance(expected, in_mlx(model(name))) > 10 * LIMIT, "the adapter changes nothing"
    assert distance(in_llama(file), expected) < LIMIT / 5


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_quantised_base(name: str, model: FolderOf, tmp_path: Path) -> None:
    from mlx_lm import convert as to_mlx

    folder = tmp_path / "quantised"
    to_mlx(str(model(name)), str(folder), quantize=True, q_bits=4, q_group_size=32, dtype="float32")
    file = converted(folder, tmp_path / "model.gguf")
    expected = in_mlx(folder)
    assert distance(expected, in_mlx(model(name))) > 10 * LIMIT, "nothing was quantised"
    assert distance(in_llama(file), expected) < LIMIT


@pytest.mark.parametrize(("kind", "near"), NEAR.items())
def test_types(kind: str, near: float, model: FolderOf, tmp_path: Path) -> None:
    file = converted(model("qwen3"), tmp_path / "model.gguf", kind=kind)
    assert 0 < distance(in_llama(file), in_mlx(model("qwen3"))) < near
