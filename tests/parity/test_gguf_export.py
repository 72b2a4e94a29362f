"""An adapter in GGUF, beside a base or grafted into it, is in llama.cpp the policy that was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_align import backends
from mlx_align.config import AdapterConfig, BackendConfig
from mlx_align.errors import AlignError, UsageError
from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base
from mlx_align.export.gguf import adapter as gguf_adapter
from mlx_align.export.gguf import convert, graft
from mlx_align.export.llama import LlamaReader
from mlx_align.export.provenance import Provenance
from tests import support
from tests.parity import architectures

LIMIT = 1e-3
"""Of the difference between two probabilities."""
WRONG = 10 * LIMIT
"""What every wrong file exceeds."""

VOCABULARY = architectures.COMMON["vocab_size"]
PROMPTS = [np.random.default_rng(n).integers(0, VOCABULARY, n).tolist() for n in (1, 9, 50)]
PROVENANCE = Provenance("a-run", "orpo", "owner/base", None, "0" * 64, "1" * 64, "2" * 64, 7, "")
NAMES = ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "phi3"]

Probabilities = NDArray[np.float64]
BaseOf = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseOf]:
    """A tiny model's folder and the same model as a GGUF, by architecture; each is built once."""
    built: dict[str, tuple[Path, Path]] = {}
    everywhere = architectures.MIXTURES["qwen3_moe"] | {"decoder_sparse_step": 1}  # what llama.cpp knows

    def of(name: str) -> tuple[Path, Path]:
        if name not in built:
            folder = architectures.build(name, tmp_path_factory.mktemp(name))
            file = folder.with_suffix(".gguf")
            convert.write(file, Base.open(folder), None, PROVENANCE, "f32")
            built[name] = folder, file
        return built[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(architectures.MIXTURES, "qwen3_moe", everywhere)
        yield of


def ours(model: Path, adapter: Path | None) -> Probabilities:
    """(N, V), by the mlx backend."""
    backend = backends.create(BackendConfig(name="mlx", device="cpu"))
    return np.exp(backend.load_for_generation(model, adapter).next_logps(PROMPTS).astype(np.float64))


def theirs(model: Path, adapter: Path | None = None) -> Probabilities:
    """(N, V), by llama.cpp."""
    everything = np.tile(np.arange(VOCABULARY), (len(PROMPTS), 1))
    with LlamaReader(model, adapter) as reader:
        return np.exp(reader.next_logps(PROMPTS, everything).astype(np.float64))


def distance(one: Probabilities, other: Probabilities) -> float:
    largest = float(np.abs(one - other).max())
    print(f"largest difference {largest:.1e}")
    return largest


def trained(model: Path, folder: Path, **config: object) -> Adapter:
    """An adapter that changes much, as a run leaves it in the folder."""
    policy = support.policy(AdapterConfig(rank=4, **config), model=model, spread=0.4)
    folder.mkdir()
    policy.save_adapter(folder)
    return adapters.read(folder)


def random_adapter(model: Path, folder: Path, names: list[str]) -> Adapter:
    """An adapter on the modules of these names, written into the folder."""
    rng, base, modules = np.random.default_rng(2), Base.open(model), {}
    for name in names:
        rows, columns = base.shape(name)
        embedding = name.endswith("embed_tokens")
        into, out = (rows, columns) if embedding else (columns, rows)
        a, b = (rng.normal(0, 0.2, shape).astype(np.float32) for shape in ((4, into), (out, 4)))
        modules[name] = Module(a, b, None, embedding)
    adapter = Adapter(modules, 2.5, 0.0, adapters.describe(modules, base.layers, 2.5, 0.0))
    folder.mkdir()
    adapters.write(folder, adapter)
    return adapter


@dataclass(frozen=True)
class Case:
    """A llama and its policy."""

    base: Base
    base_gguf: Path
    adapter: Adapter
    policy: Probabilities


@pytest.fixture(scope="module")
def llama(base_of: BaseOf, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """An adapted llama, for what is looked at on one architecture."""
    (model, base_gguf), folder = base_of("llama"), tmp_path_factory.mktemp("case") / "adapter"
    adapter = trained(model, folder)
    return Case(Base.open(model), base_gguf, adapter, ours(model, folder))


@pytest.mark.parametrize("name", NAMES)
def test_beside_and_grafted(name: str, base_of: BaseOf, tmp_path: Path) -> None:
    (model, base_gguf), base = base_of(name), Base.open(base_of(name)[0])
    adapter = trained(model, tmp_path / "adapter")
    assert any(module.b.ndim == 3 for module in adapter.modules.values()) == (name == "qwen3_moe")
    beside, grafted = tmp_path / "beside.gguf", tmp_path / "grafted.gguf"
    assert gguf_adapter.write(beside, adapter, base, PROVENANCE) == []
    assert graft.write(grafted, adapter, base, base_gguf, PROVENANCE) == []
    policy = ours(model, tmp_path / "adapter")
    assert distance(theirs(base_gguf, beside), policy) < LIMIT
    assert distance(theirs(grafted), policy) < LIMIT
    assert distance(ours(model, None), policy) > WRONG


@pytest.mark.parametrize("mistake", ["rows as they were", "alpha is the scale", "no alpha", "no adapter"])
def test_wrong_adapters_are_seen(
    mistake: str, llama: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mistake == "rows as they were":
        monkeypatch.setattr(gguf_adapter, "permuted", lambda rows, heads: rows)
    own = llama.adapter.scale
    scale = {"alpha is the scale": own / 4, "no alpha": 0.0}.get(mistake, own)  # the rank is 4
    file = tmp_path / "wrong.gguf"
    gguf_adapter.write(file, replace(llama.adapter, scale=scale), llama.base, PROVENANCE)
    found = theirs(llama.base_gguf, None if mistake == "no adapter" else file)
    assert distance(found, llama.policy) > WRONG


@pytest.mark.parametrize(("own", "asked", "limit"), [("f16", None, 2e-3), ("f32", "q8_0", 2e-2)])
def test_types(own: str, asked: str | None, limit: float, llama: Case, tmp_path: Path) -> None:
    base_gguf, grafted = tmp_path / "base.gguf", tmp_path / "grafted.gguf"
    convert.write(base_gguf, llama.base, None, PROVENANCE, own)
    graft.write(grafted, llama.adapter, llama.base, base_gguf, PROVENANCE, asked)
    assert distance(theirs(grafted), llama.policy) < limit


def test_a_base_that_mlx_quantised(base_of: BaseOf, tmp_path: Path) -> None:
    from mlx_lm import convert as mlx_convert

    mlx_convert(str(base_of("llama")[0]), str(tmp_path / "model"), quantize=True, q_bits=4, q_group_size=32)
    base, base_gguf = Base.open(tmp_path / "model"), tmp_path / "base.gguf"
    convert.write(base_gguf, base, None, PROVENANCE, "f32")
    adapter, beside, grafted = (
        trained(base.folder, tmp_path / "adapter"),
        tmp_path / "a.gguf",
        tmp_path / "m.gguf",
    )
    gguf_adapter.write(beside, adapter, base, PROVENANCE)
    notes = graft.write(grafted, adapter, base, base_gguf, PROVENANCE)
    policy = ours(base.folder, tmp_path / "adapter")
    assert "trained beside weights that MLX quantised" in notes[0]
    assert distance(theirs(base_gguf, beside), policy) < LIMIT
    assert distance(theirs(grafted), policy) < LIMIT


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_dora_is_merged(name: str, base_of: BaseOf, tmp_path: Path) -> None:
    model, base_gguf = base_of(name)
    adapter, file = trained(model, tmp_path / "adapter", type="dora"), tmp_path / "grafted.gguf"
    notes = graft.write(file, adapter, Base.open(model), base_gguf, PROVENANCE)
    assert "magnitudes" in notes[0]
    assert distance(theirs(file), ours(model, tmp_path / "adapter")) < LIMIT
    with pytest.raises(UsageError, match="DoRA"):
        gguf_adapter.write(tmp_path / "beside.gguf", adapter, Base.open(model), PROVENANCE)


def test_embedding_and_head(base_of: BaseOf, tmp_path: Path) -> None:
    model, base_gguf = base_of("llama")
    adapter = random_adapter(model, tmp_path / "adapter", ["model.embed_tokens", "lm_head"])
    beside, grafted = tmp_path / "beside.gguf", tmp_path / "grafted.gguf"
    gguf_adapter.write(beside, adapter, Base.open(model), PROVENANCE)
    graft.write(grafted, adapter, Base.open(model), base_gguf, PROVENANCE)
    wanted = ours(model, tmp_path / "adapter")
    assert distance(theirs(base_gguf, beside), wanted) < LIMIT
    assert distance(theirs(grafted), wanted) < LIMIT


def test_tied_embedding(base_of: BaseOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, base_gguf = base_of("qwen3")
    base, beside, grafted = Base.open(model), tmp_path / "beside.gguf", tmp_path / "grafted.gguf"
    adapter = random_adapter(model, tmp_path / "adapter", ["model.embed_tokens"])
    graft.write(grafted, adapter, base, base_gguf, PROVENANCE)
    assert distance(theirs(grafted), ours(model, tmp_path / "adapter")) < LIMIT
    with pytest.raises(UsageError, match="output head"):
        gguf_adapter.write(beside, adapter, base, PROVENANCE)
    monkeypatch.setattr(gguf_adapter, "_check", lambda *_: None)
    gguf_adapter.write(beside, adapter, base, PROVENANCE)
    with pytest.raises(AlignError, match="its process ended"):  # llama.cpp aborts, and we go on
        theirs(base_gguf, beside)


def test_adapter_of_another_model(llama: Case, base_of: BaseOf, tmp_path: Path) -> None:
    file = tmp_path / "beside.gguf"
    gguf_adapter.write(file, llama.adapter, llama.base, PROVENANCE)
    with pytest.raises(AlignError, match="arch mismatch"):
        theirs(base_of("qwen3")[1], file)
