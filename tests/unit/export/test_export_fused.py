"""Quantised bases: mlx-lm's own converter and its own fusing are the oracles."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.convert import convert

from mlx_align.backends.mlx.plain import reads_alike
from mlx_align.errors import UsageError
from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base
from mlx_align.export.formats import fused, hf
from mlx_align.export.merging import merged
from mlx_align.export.quantised import Quantised, dequantise
from tests.parity import architectures
from tests.unit.export.exported import (
    adapter_on,
    logps_by_mlx_lm,
    logps_by_transformers,
    matrices,
)
from tests.unit.export.provenances import PROVENANCE

ON = r"layers\.[12]\.(self_attn\.[qv]_proj|mlp\.(switch_mlp\.)?up_proj)"
"""What the adapters are on: experts too, and by far not everything."""


@pytest.fixture(scope="module", params=["qwen3", "qwen3_moe"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A model in full precision as the hub has it."""
    return Base.open(architectures.build(request.param, tmp_path_factory.mktemp("models") / "plain"))


@pytest.fixture(scope="module")
def base(plain: Base) -> Base:
    """The same, quantised by mlx-lm to 4 bits and the queries to 6."""
    folder = plain.folder.with_name("quantised")

    def choose(path: str, module: object) -> bool | dict[str, object]:
        if not hasattr(module, "to_quantized"):
            return False
        return {"group_size": 32, "bits": 6} if path.endswith("q_proj") else module.weight.shape[-1] % 32 == 0

    convert(str(plain.folder), str(folder), quantize=True, q_bits=4, q_group_size=32, quant_predicate=choose)
    return Base.open(folder)


def written(folder: Path, adapter: Adapter, base: Base, *options: object) -> Base:
    folder.mkdir()
    fused.write(folder, adapter, base, PROVENANCE, *options)  # type: ignore[arg-type]
    return Base.open(folder)


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"])
def test_a_quantised_module_is_read_as_mlx_reads_it(name: str, plain: Base, base: Base) -> None:
    module = f"model.layers.0.{name}"
    expected = mx.array(plain.weight(module))
    how = base.quantisation(module)
    assert how == Quantised(6 if "q_proj" in name else 4, 32)
    packed = mx.quantize(expected, group_size=32, bits=how.bits)
    expected = mx.dequantize(*packed, group_size=32, bits=how.bits)
    np.testing.assert_allclose(base.weight(module), np.array(expected), atol=1e-6)
    assert base.shape(module) == plain.shape(module)


def test_the_hubs_model_of_a_quantised_base(base: Base, tmp_path: Path) -> None:
    adapter = adapter_on(base, matrices(base, ON))
    expected = logps_by_mlx_lm(base.folder, adapter, tmp_path / "adapter")
    (tmp_path / "hf").mkdir()
    (note,) = hf.write(tmp_path / "hf", adapter, base, PROVENANCE)
    assert "dequantised" in note
    np.testing.assert_allclose(logps_by_transformers(tmp_path / "hf"), expected, atol=2e-4)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert not {"quantization", "quantization_config"} & config.keys()
    assert not any("switch_mlp" in name for name in Base.open(tmp_path / "hf").tensors)


@pytest.mark.parametrize("choice", ["kept", "none"])
def test_mlx_lm_answers_as_with_the_adapter(choice: str, base: Base, tmp_path: Path) -> None:
    adapter = adapter_on(base, matrices(base, ON))
    expected = logps_by_mlx_lm(base.folder, adapter, tmp_path / "adapter")
    ours = written(tmp_path / "fused", adapter, base, choice)
    np.testing.assert_allclose(logps_by_mlx_lm(ours.folder), expected, atol=2e-4)
    assert abs(logps_by_mlx_lm(base.folder) - expected).max() > 0.3
    for name, tensor in base.tensors.items():
        module = name.rpartition(".")[0]
        if choice == "kept" and module not in adapter.modules:
            assert ours.tensors[name].raw() == tensor.raw(), name
    assert ours.quantised == (choice == "kept")
    assert not any(ours.quantisation(module) for module in adapter.modules)


def test_positions_in_the_words_of_transformers_5(tmp_path: Path) -> None:
    """mlx-lm would read such a Llama with a theta of 10,000, and take what stretches positions away.

    So both merged models have the older keys beside the table, which change nothing for transformers.
    """
    folder = architectures.build("llama", tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    table = {"rope_theta": 500.0, "rope_type": "linear", "factor": 4.0}
    older = {"rope_theta", "rope_scaling"}
    changed = {key: value for key, value in config.items() if key not in older} | {"rope_parameters": table}
    (folder / "config.json").write_text(json.dumps(changed))
    base = Base.open(folder)
    adapter = adapter_on(base, matrices(base, ON))
    (tmp_path / "hf").mkdir()
    hf.write(tmp_path / "hf", adapter, base, PROVENANCE)
    expected = logps_by_transformers(tmp_path / "hf")
    ours = written(tmp_path / "fused", adapter, base)
    np.testing.assert_allclose(logps_by_mlx_lm(ours.folder), expected, atol=2e-4)
    np.testing.assert_allclose(logps_by_mlx_lm(tmp_path / "hf"), expected, atol=2e-4)
    facts = json.loads((tmp_path / "hf" / "config.json").read_text())
    newer = {key: value for key, value in facts.items() if key not in older}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(newer))
    np.testing.assert_array_equal(logps_by_transformers(tmp_path / "hf"), expected)
    assert abs(logps_by_mlx_lm(tmp_path / "hf") - expected).max() > 0.1, "mlx-lm knows them by now"
    assert not reads_alike(tmp_path / "hf")
    assert reads_alike(ours.folder)


def test_sums_are_quantised_as_mlx_lm_fuses_them(base: Base, tmp_path: Path) -> None:
    adapter = adapter_on(base, matrices(base, ON))
    ours = written(tmp_path / "fused", adapter, base, "again")
    assert ours.config["quantization"] == base.config["quantization"]
    logps_by_mlx_lm(ours.folder)  # it loads
    for name, module in adapter.modules.items():
        how = base.quantisation(name)
        assert ours.quantisation(name) == how
        exact = merged(base.weight(name), module, adapter.scale)
        parts = mx.quantize(mx.array(exact), group_size=how.group_size, bits=how.bits)
        expected = dequantise(*(np.array(part) for part in parts), how)
        np.testing.assert_allclose(ours.weight(name), expected, atol=1e-6)
    untouched = [name for name in base.tensors if name.rpartition(".")[0] not in adapter.modules]
    assert all(ours.tensors[name].raw() == base.tensors[name].raw() for name in untouched)


@pytest.mark.parametrize("bits", [3, 4])
def test_a_model_is_quantised_as_by_mlx_lms_converter(bits: int, plain: Base, tmp_path: Path) -> None:
    adapter = adapter_on(plain, matrices(plain, ON))
    ours = written(tmp_path / "ours", adapter, plain, "again", bits)
    (tmp_path / "hf").mkdir()
    hf.write(tmp_path / "hf", adapter, plain, PROVENANCE)
    convert(str(tmp_path / "hf"), str(tmp_path / "theirs"), quantize=True, q_bits=bits, q_group_size=64)
    theirs = Base.open(tmp_path / "theirs")
    assert ours.config["quantization"] == theirs.config["quantization"]
    assert set(ours.tensors) == set(theirs.tensors)
    for name, tensor in theirs.tensors.items():
        assert (ours.tensors[name].dtype, ours.tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert ours.tensors[name].raw() == tensor.raw(), name
    np.testing.assert_array_equal(logps_by_mlx_lm(ours.folder), logps_by_mlx_lm(theirs.folder))


def test_a_quantised_base_is_quantised_to_other_bits(base: Base, tmp_path: Path) -> None:
    adapter = adapter_on(base, matrices(base, ON))
    # MLX's CPU device multiplies by experts in float32 only.
    dtype, named = ("f16", "float16") if base.architecture == "qwen3" else ("f32", "float32")
    ours = written(tmp_path / "fused", adapter, base, "again", 8, dtype)
    hows = {ours.quantisation(name) for name in matrices(ours)} - {None}
    assert hows == {Quantised(8, 32)}
    assert ours.tensors["model.layers.0.self_attn.q_proj.scales"].dtype == dtype.upper()
    assert json.loads((ours.folder / "config.json").read_text())["dtype"] == named
    expected = logps_by_mlx_lm(base.folder, adapter, tmp_path / "adapter")
    kl = (np.exp(expected) * (expected - logps_by_mlx_lm(ours.folder))).sum(-1)
    assert 1e-7 < kl.mean() < 1e-2


def test_a_model_of_mxfp4_is_merged_and_not_written_again(plain: Base, tmp_path: Path) -> None:
    convert(str(plain.folder), str(tmp_path / "mxfp4"), quantize=True, q_mode="mxfp4")
    base = Base.open(tmp_path / "mxfp4")
    adapter = adapter_on(base, matrices(base, ON))
    expected = logps_by_mlx_lm(base.folder, adapter, tmp_path / "adapter")
    ours = written(tmp_path / "kept", adapter, base, "kept")
    np.testing.assert_allclose(logps_by_mlx_lm(ours.folder), expected, atol=2e-4)
    with pytest.raises(UsageError, match="mxfp4, which is read here but not written"):
        written(tmp_path / "again", adapter, base, "again")


def test_what_cannot_be_quantised_is_refused(plain: Base, tmp_path: Path) -> None:
    adapter = adapter_on(plain, matrices(plain, ON))
    with pytest.raises(UsageError, match="the base is not quantised"):
        written(tmp_path / "1", adapter, plain, "again")
    with pytest.raises(UsageError, match="4 bits cannot be had with the quantisation 'kept'"):
        written(tmp_path / "2", adapter, plain, "kept", 4)
    with pytest.raises(UsageError, match="7 bits"):
        written(tmp_path / "3", adapter, plain, "again", 7)


def test_mlx_lms_own_fusing_comes_to_the_same_model(base: Base, tmp_path: Path) -> None:
    from mlx_lm.utils import load_adapters, load_model

    adapter = adapter_on(base, matrices(base, ON))
    (tmp_path / "adapter").mkdir()
    adapters.write(tmp_path / "adapter", adapter)
    model = load_adapters(load_model(base.folder)[0], str(tmp_path / "adapter"))
    ours = written(tmp_path / "fused", adapter, base, "none")
    found = {
        name: module.fuse(dequantize=True)
        for name, module in model.named_modules()
        if hasattr(module, "fuse")
    }
    assert found.keys() == adapter.modules.keys()
    for name, module in found.items():
        np.testing.assert_allclose(ours.weight(name), np.array(module.weight), atol=1e-5)
