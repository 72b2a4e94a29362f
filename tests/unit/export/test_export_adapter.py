"""An adapter read and written, found in its base, and added to its weights."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_align import embedded
from mlx_align.errors import AlignError, DataError, UsageError
from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base
from mlx_align.export.formats import mlx
from mlx_align.export.merging import merged
from mlx_align.export.preflight import check_fits, check_space
from mlx_align.export.tensors import Tensors
from tests.unit.export.exported import adapter_on
from tests.unit.export.provenances import PROVENANCE

RNG = np.random.default_rng(0)
FACTS = {
    "fine_tune_type": "lora",
    "num_layers": 2,
    "lora_parameters": {"rank": 4, "scale": 2.5, "dropout": 0.1, "keys": ["self_attn.q_proj"]},
}


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def files(folder: Path, arrays: dict[str, np.ndarray], facts: object = FACTS) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / "adapters.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    return folder


def model(folder: Path, config: dict[str, object], tensors: dict[str, np.ndarray]) -> Base:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_moe", **config}))
    return Base.open(folder)


def by_mlx_lm(kind: str, weight: np.ndarray, module: Module, scale: float) -> np.ndarray:
    """What mlx-lm's own layer fuses to."""
    import mlx.nn as nn
    from mlx_lm.models.switch_layers import SwitchLinear
    from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

    layer, lora, dora = {
        "linear": lambda: (nn.Linear(*weight.shape[::-1], bias=False), LoRALinear, DoRALinear),
        "embedding": lambda: (nn.Embedding(*weight.shape), LoRAEmbedding, DoRAEmbedding),
        "experts": lambda: (
            SwitchLinear(*weight.shape[:0:-1], len(weight), bias=False),
            LoRASwitchLinear,
            None,
        ),
    }[kind]()
    layer.weight = mx.array(weight)
    adapted = (lora if module.magnitude is None else dora).from_base(layer, r=module.rank, scale=scale)
    a, b = (module.a, module.b) if weight.ndim == 3 else (module.a.T, module.b.T)
    adapted.lora_a, adapted.lora_b = mx.array(a), mx.array(b)
    if module.magnitude is not None:
        adapted.m = mx.array(module.magnitude)
    return np.array(adapted.fuse().weight)


@pytest.mark.parametrize(
    ("kind", "dora"),
    [("linear", False), ("linear", True), ("embedding", False), ("embedding", True), ("experts", False)],
)
def test_the_sum_is_mlx_lms(kind: str, dora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_align.export.merging.BLOCK", 40)  # a few rows at a time
    shape = (3, 7, 10) if kind == "experts" else (7, 10)
    weight = numbers(*shape)
    a, b = (7, 10) if kind == "embedding" else (10, 7)
    magnitude = abs(numbers(7)) if dora else None
    module = Module(numbers(*shape[:-2], 2, a), numbers(*shape[:-2], b, 2), magnitude, kind == "embedding")
    assert module.shape == shape
    ours = merged(weight, module, 1.5)
    np.testing.assert_allclose(ours, by_mlx_lm(kind, weight, module, 1.5), atol=2e-6)
    assert abs(ours - weight).max() > 0.1


def test_reading_gives_the_neutral_form(tmp_path: Path) -> None:
    arrays = {
        "model.layers.1.self_attn.q_proj.lora_a": numbers(6, 4),
        "model.layers.1.self_attn.q_proj.lora_b": numbers(4, 8),
        "model.layers.1.self_attn.q_proj.m": numbers(8),
        "model.layers.1.mlp.switch_mlp.up_proj.lora_a": numbers(3, 4, 6),
        "model.layers.1.mlp.switch_mlp.up_proj.lora_b": numbers(3, 8, 4),
        "model.embed_tokens.lora_a": numbers(20, 4),
        "model.embed_tokens.lora_b": numbers(4, 6),
    }
    read = adapters.read(files(tmp_path / "adapter", arrays))
    shapes = {name.rpartition(".")[2]: module.shape for name, module in read.modules.items()}
    assert shapes == {"q_proj": (8, 6), "up_proj": (3, 8, 6), "embed_tokens": (20, 6)}
    assert (read.scale, read.dropout, read.dora, read.facts) == (2.5, 0.1, True, FACTS)
    assert {module.rank for module in read.modules.values()} == {4}
    (tmp_path / "again").mkdir()
    mlx.write(tmp_path / "again", read, Base.open(embedded.model_folder()), PROVENANCE)
    written = load_file(tmp_path / "again" / "adapters.safetensors")
    assert written.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(written[name], array)
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text()) == FACTS
    found = Tensors.open(tmp_path / "again").metadata("adapters.safetensors")
    assert json.loads(found["mlx_align"])["run"] == "run"


Q = "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("arrays", "facts", "message"),
    [
        ({f"{Q}.lora_a": numbers(6, 4)}, FACTS, "lacks lora_a or lora_b"),
        ({f"{Q}.lora_a": numbers(6, 4), f"{Q}.lora_b": numbers(3, 8)}, FACTS, "do not fit"),
        ({f"{Q}.lora_a": numbers(6, 4), f"{Q}.lora_b": numbers(2, 8, 4)}, FACTS, "do not fit"),
        ({f"{Q}.lora_a": numbers(6, 4), f"{Q}.lora_b": numbers(4, 8), f"{Q}.m": numbers(6)}, FACTS, "rows"),
        ({f"{Q}.lora_a": numbers(6, 4) * np.inf, f"{Q}.lora_b": numbers(4, 8)}, FACTS, "not finite"),
        ({f"{Q}.weight": numbers(6, 4)}, FACTS, "not part of a LoRA"),
        ({}, {**FACTS, "fine_tune_type": "full"}, "'full' is not an adapter"),
        ({}, {"lora_parameters": {"rank": 8, "alpha": 16}}, "not the configuration"),
        ({}, [], "not the configuration"),
    ],
)
def test_what_is_no_adapter_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], facts: object, message: str
) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        adapters.read(files(tmp_path / "adapter", arrays, facts))


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an adapter in mlx-lm's format"):
        adapters.read(tmp_path)


def test_an_adapter_from_elsewhere_is_described_for_mlx_lm() -> None:
    module = Module(numbers(4, 6), numbers(8, 4))
    names = ["model.layers.2.mlp.up_proj", "model.layers.3.mlp.up_proj", "lm_head"]
    facts = adapters.describe(dict.fromkeys(names, module), 4, 2.0, 0.0)
    keys = ["lm_head", "mlp.up_proj"]
    assert facts == {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": keys},
    }
    uneven = adapters.describe(dict.fromkeys(names[:1], module), 4, 2.0, 0.0)
    assert uneven["lora_parameters"]["keys"] == names[:1]


def test_experts_are_found_under_all_their_names(tmp_path: Path) -> None:
    gate, up, down = numbers(3, 8, 6), numbers(3, 8, 6), numbers(3, 6, 8)
    parts = {"gate_proj": gate, "up_proj": up, "down_proj": down}
    short = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    stacked = {f"l.mlp.switch_mlp.{part}.weight": value for part, value in parts.items()}
    single = {f"l.mlp.experts.{e}.{part}.weight": v[e] for part, v in parts.items() for e in range(3)}
    mixtral = {
        f"l.block_sparse_moe.experts.{e}.{short[part]}.weight": v[e]
        for part, v in parts.items()
        for e in range(3)
    }
    fused = {"l.mlp.experts.gate_up_proj": np.concatenate([gate, up], 1), "l.mlp.experts.down_proj": down}
    for number, tensors in enumerate((stacked, single, mixtral, fused)):
        base = model(tmp_path / str(number), {}, tensors)
        layer = "l.block_sparse_moe" if tensors is mixtral else "l.mlp"
        for part, value in parts.items():
            np.testing.assert_array_equal(base.weight(f"{layer}.switch_mlp.{part}"), value)
            assert base.shape(f"{layer}.switch_mlp.{part}") == value.shape


def test_a_language_model_is_found_within_another(tmp_path: Path) -> None:
    names = ("language_model.model.layers.0.x", "model.language_model.layers.0.x", "model.layers.0.x")
    for name in names:
        base = model(tmp_path / name, {"text_config": {"hidden_size": 6}}, {f"{name}.weight": numbers(8, 6)})
        assert base.shape("language_model.model.layers.0.x") == (8, 6)
        assert base.hidden == 6


def test_an_adapter_must_fit_its_base(tmp_path: Path) -> None:
    tensors = {f"{Q}.weight": numbers(8, 6), "lm_head.weight": numbers(20, 6)}
    base = model(tmp_path / "base", {"tie_word_embeddings": False}, tensors)
    check_fits(adapter_on_shape(Q, (8, 6)), base)
    check_fits(adapter_on_shape("lm_head", (20, 6)), base)
    with pytest.raises(UsageError, match=r"is \(8, 5\) in the adapter and \(8, 6\) in the base"):
        check_fits(adapter_on_shape(Q, (8, 5)), base)
    with pytest.raises(UsageError, match=r"no module 'model\.layers\.2\.mlp'"):
        check_fits(adapter_on_shape("model.layers.2.mlp", (8, 6)), base)
    tied = model(tmp_path / "tied", {"tie_word_embeddings": True}, tensors)
    with pytest.raises(UsageError, match="no output head of its own"):
        check_fits(adapter_on_shape("lm_head", (20, 6)), tied)
    foreign = model(tmp_path / "awq", {"quantization_config": {"quant_method": "awq"}}, tensors)
    with pytest.raises(UsageError, match="not read here: awq"):
        check_fits(adapter_on_shape(Q, (8, 6)), foreign)


def adapter_on_shape(name: str, shape: tuple[int, int]) -> Adapter:
    return Adapter({name: Module(numbers(4, shape[1]), numbers(shape[0], 4))}, 1.0, 0.0, {})


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(AlignError, match="GB are free"):
        check_space(tmp_path / "not" / "yet", 10**18)


def test_the_facts_of_a_base(tmp_path: Path) -> None:
    config = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 20}
    base = model(tmp_path / "base", config, {"model.embed_tokens.weight": numbers(20, 64)})
    assert (base.architecture, base.heads, base.kv_heads, base.head_dim) == ("qwen3_moe", 4, 4, 16)
    assert (base.layers, base.vocabulary, base.parameters, base.tied) == (2, 20, 1280, True)
    assert adapter_on(base, ["model.embed_tokens"]).modules["model.embed_tokens"].shape == (20, 64)
    with pytest.raises(UsageError, match="no rope_theta"):
        base.fact("rope_theta")
    said = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 16}
    left_out = {"model_type": "gemma3", "text_config": said}  # as google/gemma-3-12b-it has it
    (tmp_path / "base" / "config.json").write_text(json.dumps(left_out))
    gemma = Base.open(tmp_path / "base")
    assert (gemma.heads, gemma.kv_heads, gemma.head_dim, gemma.vocabulary) == (16, 4, 256, 262_208)
    (tmp_path / "base" / "config.json").write_text("[]")
    with pytest.raises(UsageError, match="not the configuration of a model"):
        Base.open(tmp_path / "base")
