"""Adapters from elsewhere: what is folded into mlx-lm's one rank and one scale, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mlx_align import embedded
from mlx_align.errors import AlignError, DataError, UsageError
from mlx_align.export import adapter as adapters
from mlx_align.export import importing
from mlx_align.export.base import Base

BASE = Base.open(embedded.model_folder())
NAMES = [f"model.layers.{layer}.self_attn.{part}_proj" for layer in (0, 1) for part in "qo"]
PREFIX = "base_model.model."
Arrays = dict[str, NDArray[np.float32]]
Change = Callable[[dict[str, Any], Arrays], Any]


def theirs(folder: Path, ranks: dict[str, int] | None = None, **config: Any) -> tuple[Path, Arrays]:
    """A folder as peft writes it, and its arrays."""
    rng, arrays = np.random.default_rng(0), {}
    for name in NAMES:
        out, into = BASE.shape(name)
        rank = (ranks or {}).get(name, 4)
        arrays[f"{PREFIX}{name}.lora_A.weight"] = rng.normal(size=(rank, into)).astype(np.float32)
        arrays[f"{PREFIX}{name}.lora_B.weight"] = rng.normal(size=(out, rank)).astype(np.float32)
    facts = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj"], **config}
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    save_file(arrays, folder / "adapter_model.safetensors")
    return folder, arrays


def deltas(adapter: adapters.Adapter) -> Arrays:
    """Module -> the change of its matrix."""
    return {name: adapter.scale * module.b @ module.a for name, module in adapter.modules.items()}


def test_files(tmp_path: Path) -> None:
    folder, arrays = theirs(tmp_path / "theirs", lora_dropout=0.05)
    importing.convert(folder, BASE, tmp_path / "ours")
    found = load_file(tmp_path / "ours" / "adapters.safetensors")
    for name in NAMES:
        np.testing.assert_array_equal(found.pop(f"{name}.lora_a"), arrays[f"{PREFIX}{name}.lora_A.weight"].T)
        np.testing.assert_array_equal(found.pop(f"{name}.lora_b"), arrays[f"{PREFIX}{name}.lora_B.weight"].T)
    assert not found
    facts = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert facts["fine_tune_type"] == "lora"
    numbers = facts["lora_parameters"]
    assert (numbers["rank"], numbers["scale"], numbers["dropout"]) == (4, 2.0, 0.05)
    assert numbers["keys"] == sorted(NAMES), "they are the first layers, which mlx-lm cannot count"


def test_own_ranks_and_alphas(tmp_path: Path) -> None:
    wide, narrow = NAMES[0], NAMES[3]
    folder, arrays = theirs(
        tmp_path / "theirs",
        ranks={wide: 6, narrow: 3},
        rank_pattern={"model.layers.0.self_attn.q_proj": 6, r"layers\.1\..*\.o_proj": 3},
        alpha_pattern={"o_proj": 16},
    )
    adapter = importing.read(folder, BASE)
    assert {module.rank for module in adapter.modules.values()} == {6}
    alphas = {name: 16 if "o_proj" in name else 8 for name in NAMES}
    for name, delta in deltas(adapter).items():
        a, b = (arrays[f"{PREFIX}{name}.lora_{part}.weight"] for part in "AB")
        np.testing.assert_allclose(delta, alphas[name] / len(a) * b @ a, rtol=1e-5, atol=1e-5)


def test_rank_stabilised(tmp_path: Path) -> None:
    assert importing.read(theirs(tmp_path / "theirs", use_rslora=True)[0], BASE).scale == 8 / 4**0.5


def test_mlx_lms_own(tmp_path: Path) -> None:
    importing.convert(theirs(tmp_path / "theirs")[0], BASE, tmp_path / "ours")
    assert importing.base_name(tmp_path / "ours") is None
    importing.convert(tmp_path / "ours", BASE, tmp_path / "again")
    for name in ("adapters.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder, _ = theirs(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    with pytest.raises(UsageError, match="there already") as caught:
        importing.convert(folder, BASE, tmp_path / "ours")
    assert "--out" in str(caught.value.hint)
    assert not list((tmp_path / "ours").iterdir())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "bias"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "repeats layers"),
        ({"trainable_token_indices": [5]}, "single tokens"),
        ({"fan_in_fan_out": True}, "transposed"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"lora_alpha": 0}, "scale is 0"),
        ({"lora_alpha": None}, "cannot be read"),
        ({"use_dora": True}, "no magnitude"),
        ({"alpha_pattern": {"(": 3}}, "cannot be read"),
    ],
)
def test_refused_for_its_configuration(config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    folder, _ = theirs(tmp_path / "theirs", **config)
    with pytest.raises(UsageError, match=reason) as caught:
        importing.convert(folder, BASE, tmp_path / "ours")
    assert str(folder) in str(caught.value.where)
    assert not (tmp_path / "ours").exists()


def _without_b(arrays: Arrays) -> None:
    del arrays[f"{PREFIX}{NAMES[0]}.lora_B.weight"]


def _not_finite(arrays: Arrays) -> None:
    arrays[f"{PREFIX}{NAMES[0]}.lora_B.weight"][0, 0] = np.nan


def _other_ranks(arrays: Arrays) -> None:
    name = f"{PREFIX}{NAMES[0]}.lora_B.weight"
    arrays[name] = np.ascontiguousarray(arrays[name][:, :2])


def _other_width(arrays: Arrays) -> None:
    name = f"{PREFIX}{NAMES[0]}.lora_A.weight"
    arrays[name] = np.ascontiguousarray(arrays[name][:, :8])


def _one_side(arrays: Arrays) -> None:
    tokens, width = BASE.shape("model.embed_tokens")
    arrays[f"{PREFIX}model.embed_tokens.lora_embedding_A"] = np.ones((4, tokens), np.float32)
    arrays[f"{PREFIX}model.embed_tokens.lora_embedding_B"] = np.ones((width, 4), np.float32)


def _unknown_module(arrays: Arrays) -> None:
    for part, shape in (("A", (4, 8)), ("B", (8, 4))):
        arrays[f"{PREFIX}model.layers.0.mlp.fc.lora_{part}.weight"] = np.ones(shape, np.float32)


def _experts(arrays: Arrays) -> None:
    for part, shape in (("A", (4, 8)), ("B", (8, 4))):
        arrays[f"{PREFIX}model.layers.0.mlp.experts.0.up_proj.lora_{part}.weight"] = np.ones(
            shape, np.float32
        )


def _norm(arrays: Arrays) -> None:
    arrays[f"{PREFIX}model.norm.weight"] = np.ones(8, np.float32)


def _own_embedding(arrays: Arrays) -> None:
    arrays[f"{PREFIX}lm_head.weight"] = np.ones(BASE.shape("model.embed_tokens"), np.float32)


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (_without_b, UsageError, "cannot be read"),
        (_not_finite, DataError, "not finite"),
        (_other_ranks, UsageError, "do not fit each other"),
        (_other_width, UsageError, "in the base"),
        (_one_side, UsageError, "one side"),
        (_unknown_module, UsageError, "mlp.fc"),
        (_experts, UsageError, "experts of qwen3"),
        (_norm, UsageError, "model.norm"),
        (_own_embedding, UsageError, "a copy"),
        (lambda arrays: arrays.clear(), UsageError, "empty"),
    ],
)
def test_refused_for_its_arrays(
    change: Callable[[Arrays], None], kind: type[AlignError], reason: str, tmp_path: Path
) -> None:
    folder, arrays = theirs(tmp_path / "theirs")
    change(arrays)
    save_file(arrays, folder / "adapter_model.safetensors")
    with pytest.raises(kind, match=reason):
        importing.convert(folder, BASE, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


def test_a_copy_of_the_embedding_is_passed_over(tmp_path: Path) -> None:
    folder, arrays = theirs(tmp_path / "theirs")
    copies = {f"{PREFIX}{name}.weight": BASE.weight("model.embed_tokens") for name in ("lm_head",)}
    save_file({**arrays, **copies}, folder / "adapter_model.safetensors")
    assert sorted(importing.read(folder, BASE).modules) == sorted(NAMES)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    folder, _ = theirs(tmp_path / "theirs")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"there is no adapter_model\.safetensors"):
        importing.read(folder, BASE)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04K\x07.")
    with pytest.raises(UsageError, match="pickle") as caught:
        importing.read(folder, BASE)
    assert "save it again" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "[]", "{}", '"LORA"'])
def test_not_an_adapter(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapter"):
        importing.base_name(tmp_path)
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UsageError, match="adapter"):
        importing.base_name(tmp_path)


def test_the_base_that_it_names(tmp_path: Path) -> None:
    assert importing.base_name(theirs(tmp_path / "one")[0]) is None
    folder, _ = theirs(tmp_path / "two", base_model_name_or_path="owner/base")
    assert importing.base_name(folder) == "owner/base"
