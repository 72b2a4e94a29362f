"""PEFT's files: what is in them, and what is refused instead of being written wrongly."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mlx_align.errors import UsageError
from mlx_align.export import peft_layout
from mlx_align.export.adapter import Adapter, Module, describe
from mlx_align.export.base import Base
from mlx_align.export.formats import peft
from mlx_align.export.provenance import Provenance

HIDDEN, INNER, TOKENS, EXPERTS, LAYERS, RANK = 8, 6, 16, 3, 2, 2
PROVENANCE = Provenance("a-run", "orpo", "owner/base", "c0ffee", "", "", "", 7, "")
SHAPES: dict[str, tuple[int, ...]] = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "mlp.gate": (EXPERTS, HIDDEN),
    "mlp.switch_mlp.gate_proj": (EXPERTS, INNER, HIDDEN),
    "mlp.switch_mlp.up_proj": (EXPERTS, INNER, HIDDEN),
    "mlp.switch_mlp.down_proj": (EXPERTS, HIDDEN, INNER),
}


def model(folder: Path, **config: Any) -> Base:
    """A model's folder with a mixture of experts, in mlx-lm's names."""
    rng = np.random.default_rng(0)
    shapes = {
        f"model.layers.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in SHAPES.items()
    }
    shapes |= {"model.embed_tokens": (TOKENS, HIDDEN)}
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head"] = (TOKENS, HIDDEN)
    folder.mkdir(exist_ok=True)
    weights = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    facts = {
        "model_type": "qwen3_moe",
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "vocab_size": TOKENS,
    }
    (folder / "config.json").write_text(json.dumps({**facts, "tie_word_embeddings": True, **config}))
    return Base.open(folder)


def adapter_on(base: Base, *names: str, scale: float = 2.0, dora: bool = False) -> Adapter:
    rng, modules = np.random.default_rng(1), {}
    for name in names:
        *stack, rows, columns = base.shape(name)
        embedding = name.endswith("embed_tokens")
        into, out = (rows, columns) if embedding else (columns, rows)
        a = rng.normal(size=(*stack, RANK, into)).astype(np.float32)
        b = rng.normal(size=(*stack, out, RANK)).astype(np.float32)
        modules[name] = Module(a, b, np.ones(rows, np.float32) if dora else None, embedding)
    return Adapter(modules, scale, 0.1, describe(modules, LAYERS, scale, 0.1))


def written(
    base: Base, adapter: Adapter, folder: Path
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """adapter_config.json, the arrays and what was said."""
    folder.mkdir()
    notes = peft.write(folder, adapter, base, PROVENANCE)
    assert sorted(path.name for path in folder.iterdir()) == [peft_layout.CONFIG, peft_layout.WEIGHTS]
    return (
        json.loads((folder / peft_layout.CONFIG).read_text()),
        load_file(folder / peft_layout.WEIGHTS),
        notes,
    )


Q = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(LAYERS)]


def test_a_plain_adapter(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    facts, arrays, notes = written(base, adapter := adapter_on(base, *Q), tmp_path / "peft")
    assert (facts["peft_type"], facts["task_type"], facts["r"], facts["lora_alpha"]) == (
        "LORA",
        "CAUSAL_LM",
        2,
        4,
    )
    assert (facts["target_modules"], facts["lora_dropout"]) == (["self_attn.q_proj"], 0.1)
    assert (facts["base_model_name_or_path"], facts["revision"]) == ("owner/base", "c0ffee")
    assert not {"layers_to_transform", "target_parameters", "rank_pattern"} & facts.keys()
    assert notes == ()
    for name, module in adapter.modules.items():
        np.testing.assert_array_equal(arrays.pop(f"base_model.model.{name}.lora_A.weight"), module.a)
        np.testing.assert_array_equal(arrays.pop(f"base_model.model.{name}.lora_B.weight"), module.b)
    assert not arrays
    with safe_open(tmp_path / "peft" / peft_layout.WEIGHTS, "np") as file:
        assert file.metadata() == {"format": "pt", **PROVENANCE.metadata()}


def test_layers_are_named_as_briefly_as_they_can_be(tmp_path: Path) -> None:
    base = model(tmp_path / "base", tie_word_embeddings=False)
    last, _, _ = written(base, adapter_on(base, "lm_head", Q[1]), tmp_path / "last")
    assert last["target_modules"] == ["self_attn.q_proj", "lm_head"]
    assert (last["layers_to_transform"], last["layers_pattern"]) == ([1], "layers")
    base = model(tmp_path / "dense", model_type="llama")
    uneven, _, _ = written(base, adapter_on(base, *Q, "model.layers.1.mlp.gate"), tmp_path / "uneven")
    assert uneven["target_modules"] == sorted([*Q, "model.layers.1.mlp.gate"])
    assert "layers_to_transform" not in uneven


def test_experts_are_parameters(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    names = [f"model.layers.1.{name}" for name in SHAPES]
    facts, arrays, notes = written(base, adapter := adapter_on(base, *names), tmp_path / "peft")
    block = "model.layers.1.mlp"
    assert facts["target_modules"] == ["self_attn.q_proj"]
    assert facts["target_parameters"] == [
        f"{block}.gate.weight", f"{block}.experts.gate_up_proj", f"{block}.experts.down_proj"
    ]  # fmt: skip
    ((pattern, rank),) = facts["rank_pattern"].items()
    assert re.match(rf"(.*\.)?({pattern})$", f"{block}.experts.gate_up_proj")
    assert not re.match(rf"(.*\.)?({pattern})$", f"{block}.experts.down_proj")
    assert (rank, facts["alpha_pattern"][pattern]) == (2 * RANK, 2 * facts["lora_alpha"])
    assert facts["lora_dropout"] == 0  # peft refuses any other
    assert "dropout" in notes[0]
    prefix = f"base_model.model.{block}.experts"
    a = arrays[f"{prefix}.base_layer.lora_A.weight"].reshape(EXPERTS, 2 * RANK, HIDDEN)
    b = arrays[f"{prefix}.base_layer.lora_B.weight"].reshape(2 * INNER, 2 * RANK, EXPERTS)
    delta = np.einsum("ore,eri->eoi", b, a)  # what peft computes
    parts = [adapter.modules[f"{block}.switch_mlp.{part}"] for part in ("gate_proj", "up_proj")]
    np.testing.assert_allclose(delta, np.concatenate([m.b @ m.a for m in parts], axis=1), atol=1e-6)


def test_one_of_gate_and_up(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    for name in ("gate_proj", "up_proj"):
        module = adapter_on(base, path := f"model.layers.0.mlp.switch_mlp.{name}").modules[path]
        both = peft_layout.fused({name: module})
        assert both.rank == 2 * RANK
        (found,) = peft_layout.separated(both).items()
        assert found[0] == name
        np.testing.assert_array_equal(found[1].a, module.a)
        np.testing.assert_array_equal(found[1].b, module.b)


def test_any_adapter_of_both_can_be_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(EXPERTS, 4, HIDDEN)), rng.normal(size=(EXPERTS, 2 * INNER, 4))
    parts = peft_layout.separated(Module(a.astype(np.float32), b.astype(np.float32)))
    found = np.concatenate([parts[name].b @ parts[name].a for name in ("gate_proj", "up_proj")], axis=1)
    np.testing.assert_allclose(found, b @ a, atol=1e-5)


def test_an_embedding_that_is_the_output_too(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    adapter = adapter_on(base, "model.embed_tokens")
    facts, arrays, _ = written(base, adapter, tmp_path / "peft")
    assert facts["ensure_weight_tying"] is True
    module = adapter.modules["model.embed_tokens"]
    np.testing.assert_array_equal(arrays["base_model.model.model.embed_tokens.lora_embedding_A"], module.a)
    np.testing.assert_array_equal(arrays["base_model.model.lm_head.lora_B.weight"], module.a.T)
    np.testing.assert_array_equal(arrays["base_model.model.lm_head.lora_A.weight"], module.b.T)
    base = model(tmp_path / "untied", tie_word_embeddings=False)
    facts, arrays, _ = written(base, adapter, tmp_path / "once")
    assert "ensure_weight_tying" not in facts
    assert len(arrays) == 2


def test_an_alpha_that_is_no_whole_number(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    facts, _, _ = written(base, adapter_on(base, *Q, scale=0.35), tmp_path / "peft")
    assert facts["lora_alpha"] / facts["r"] == 0.35


@pytest.mark.parametrize(
    ("names", "dora", "config", "reason"),
    [
        (["model.embed_tokens"], True, {}, "columns"),
        (["model.layers.0.mlp.gate"], True, {}, "no DoRA"),
        (["model.layers.0.mlp.switch_mlp.up_proj"], False, {"model_type": "mixtral"}, "experts of mixtral"),
    ],
)
def test_refused(names: list[str], dora: bool, config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    base = model(tmp_path / "base", **config)
    (tmp_path / "peft").mkdir()
    with pytest.raises(UsageError, match=reason) as caught:
        peft.write(tmp_path / "peft", adapter_on(base, *names, dora=dora), base, PROVENANCE)
    assert caught.value.where == names[0]
    assert "--to hf" in str(caught.value.hint)
    assert not list((tmp_path / "peft").iterdir())


def test_refused_by_name(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    module = adapter_on(base, Q[0]).modules[Q[0]]
    for name, reason in (("lm_head", "no lm_head"), ("language_model.model.layers.0.q_proj", "of this name")):
        with pytest.raises(UsageError, match=reason):
            peft.write(tmp_path, Adapter({name: module}, 2.0, 0.0, {}), base, PROVENANCE)


def test_a_quantised_base_is_spoken_of(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    adapter = adapter_on(base, *Q)
    scales = {f"{name}.scales": np.ones((HIDDEN, 1), np.float32) for name in Q}
    save_file(
        {**load_file(tmp_path / "base" / "model.safetensors"), **scales},
        tmp_path / "base" / "model.safetensors",
    )
    facts = {**base.config, "quantization": {"bits": 4, "group_size": 64}}
    base = replace(Base.open(tmp_path / "base"), config=facts)
    _, _, notes = written(base, adapter, tmp_path / "peft")
    assert "quantised by MLX" in notes[0]
