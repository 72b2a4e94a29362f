"""Merged models answer as the adapter beside its base does in mlx-lm, whoever loads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_align.errors import UsageError
from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base
from mlx_align.export.formats import fused, hf
from mlx_align.export.tensors import Tensors, Writer
from mlx_align.weights import INDEX
from tests.parity import architectures
from tests.unit.export.exported import (
    adapter_on,
    logps_by_mlx_lm,
    logps_by_transformers,
    matrices,
)
from tests.unit.export.provenances import PROVENANCE

MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}


def base_of(name: str, folder: Path) -> Base:
    return Base.open(architectures.build(name, folder / "base"))


def merged(folder: Path, adapter: Adapter, base: Base, **options: str) -> Path:
    (folder / "hf").mkdir()
    assert hf.write(folder / "hf", adapter, base, PROVENANCE, **options) == ()  # type: ignore[arg-type]
    return folder / "hf"


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "phi3", "qwen3_moe", "mixtral"])
def test_the_merged_model_answers_as_the_adapter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architectures.MIXTURES, "mixtral", MIXTRAL)
    base = base_of(name, tmp_path)
    dora = name == "phi3"
    names = matrices(base) if base.tied or dora else [*matrices(base), "lm_head"]
    if base.tied:  # changes what is read and what is answered
        names.append("model.embed_tokens")
    adapter = adapter_on(base, names, dora=dora)
    expected = logps_by_mlx_lm(base.folder, adapter, tmp_path / "adapter")
    plain = logps_by_mlx_lm(base.folder)
    folder = merged(tmp_path, adapter, base)
    np.testing.assert_allclose(logps_by_transformers(folder), expected, atol=2e-4)
    np.testing.assert_allclose(logps_by_mlx_lm(folder), expected, atol=2e-4)
    assert abs(plain - expected).max() > 0.5
    (tmp_path / "fused").mkdir()
    fused.write(tmp_path / "fused", adapter, base, PROVENANCE)
    np.testing.assert_array_equal(
        Base.open(tmp_path / "fused").weight(names[0]), Base.open(folder).weight(names[0])
    )


def split(base: Base, folder: Path) -> Base:
    """The same model in two files and an index, as it would be with more weights."""
    folder.mkdir()
    names = list(base.tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, mine in shards.items():
        tensors = [base.tensors[name] for name in mine]
        entries = [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
        with Writer(folder / file, entries, {"format": "pt", "from": "tests"}) as writer:
            for tensor in tensors:
                writer.write(tensor.name, tensor.raw())
    weight_map = {name: file for file, mine in shards.items() for name in mine}
    index = {"metadata": {"total_parameters": 7}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    for file in base.folder.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    return Base.open(folder)


def test_shards_index_and_companions_are_the_bases(tmp_path: Path) -> None:
    base = split(base_of("llama", tmp_path), tmp_path / "split")
    for name in ("modeling.py", "training_args.bin", "README.md", "LICENSE", "generation_config.json"):
        (base.folder / name).write_text("{}")
    base.config["auto_map"] = {"AutoModel": "modeling.Model"}
    names = matrices(base, "q_proj")
    folder = merged(tmp_path, adapter_on(base, names), base)
    written, before = Tensors.open(folder), base.tensors
    assert written.files == before.files
    for name, tensor in before.items():
        same = written[name].raw() == tensor.raw()
        assert same != (name.removesuffix(".weight") in names), name
    metadata = written.metadata("model-00001-of-00002.safetensors")
    assert (metadata["format"], metadata["from"]) == ("pt", "tests")
    assert json.loads(metadata["mlx_align"])["adapter_digest"] == "a" * 64
    index, old = (json.loads((place / INDEX).read_text()) for place in (folder, base.folder))
    assert index["weight_map"] == old["weight_map"]
    size = sum(tensor.end - tensor.begin for tensor in written.values())
    assert index["metadata"] == {"total_parameters": 7, "total_size": size}
    assert {file.name for file in folder.iterdir()} == {
        "LICENSE", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", INDEX,
        *before.files,
    }  # fmt: skip
    assert "auto_map" not in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(("dtype", "named"), [("bf16", "bfloat16"), ("f16", "float16")])
def test_another_dtype_is_rounded_to_once_and_named(dtype: str, named: str, tmp_path: Path) -> None:
    import torch

    base = base_of("llama", tmp_path)
    adapter = adapter_on(base, matrices(base, "up_proj"))
    full, short = tmp_path / "full", tmp_path / "short"
    for folder, kind in ((full, None), (short, dtype)):
        folder.mkdir()
        hf.write(folder, adapter, base, PROVENANCE, kind)  # type: ignore[arg-type]
    exact, rounded = Base.open(full), Base.open(short)
    assert {tensor.dtype for tensor in rounded.tensors.values()} == {dtype.upper()}
    for name in exact.tensors:
        expected = torch.from_numpy(exact.matrix(name)).to(getattr(torch, named)).float().numpy()
        np.testing.assert_array_equal(rounded.matrix(name), expected)
    config = json.loads((short / "config.json").read_text())
    assert {config[key] for key in ("dtype", "torch_dtype") if key in config} == {named}


def test_a_head_beside_a_tied_embedding_stays_its_copy(tmp_path: Path) -> None:
    base = base_of("qwen3", tmp_path)
    tensors = [(t.name, t.dtype, t.shape, t.raw()) for t in base.tensors.values()]
    embedding = base.tensors["model.embed_tokens.weight"]
    tensors.append(("lm_head.weight", embedding.dtype, embedding.shape, embedding.raw()))
    with Writer(base.folder / "model.safetensors", [entry[:3] for entry in tensors], {}) as writer:
        for name, _, _, data in tensors:
            writer.write(name, data)
    base = Base.open(base.folder)
    folder = merged(tmp_path, adapter_on(base, ["model.embed_tokens"]), base)
    after = Tensors.open(folder)
    assert after["lm_head.weight"].raw() == after["model.embed_tokens.weight"].raw() != embedding.raw()


def test_all_gates_and_ups_in_one_tensor(tmp_path: Path) -> None:
    """As transformers 5 has experts in memory, and some models on the hub."""
    rng, kinds = np.random.default_rng(0), {"gate_up_proj": (3, 16, 6), "down_proj": (3, 6, 8)}
    entries = [(f"model.layers.0.mlp.experts.{kind}", "F32", shape) for kind, shape in kinds.items()]
    (tmp_path / "base").mkdir()
    with Writer(tmp_path / "base" / "model.safetensors", entries, {}) as writer:
        for name, _, shape in entries:
            writer.write(name, rng.standard_normal(shape).astype(np.float32).tobytes())
    (tmp_path / "base" / "config.json").write_text('{"model_type": "qwen3_moe"}')
    base = Base.open(tmp_path / "base")
    base.config["num_hidden_layers"] = 1
    names = [f"model.layers.0.mlp.switch_mlp.{part}_proj" for part in ("gate", "up")]
    adapter = adapter_on(base, names)
    after = Base.open(merged(tmp_path, adapter, base))
    for name in names:
        module = adapter.modules[name]
        expected = base.weight(name) + 2.0 * module.b @ module.a
        np.testing.assert_allclose(after.weight(name), expected, atol=1e-6)
    down = "model.layers.0.mlp.experts.down_proj"
    assert after.tensors[down].raw() == base.tensors[down].raw()


def test_another_models_layout_is_not_guessed(tmp_path: Path) -> None:
    base = base_of("llama", tmp_path)
    base.config["model_type"] = "qwen3_next"
    base.config["quantization"] = {"group_size": 64, "bits": 4}
    with pytest.raises(UsageError, match="how mlx-lm rearranges 'qwen3_next'"):
        merged(tmp_path, adapter_on(base, matrices(base, "q_proj")), base)
