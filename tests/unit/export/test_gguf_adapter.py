"""A GGUF adapter holds what llama.cpp multiplies, and nothing is written that it would apply otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlx_align.errors import UsageError
from mlx_align.export.adapter import Adapter
from mlx_align.export.gguf.adapter import write
from tests.unit.export.gguf_models import HEADS, PROVENANCE, Q_PROJ, adapter, arrays, base, value

A, B = "blk.1.attn_q.weight.lora_a", "blk.1.attn_q.weight.lora_b"


def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "adapter.gguf"
    assert write(file, adapter(), base(tmp_path / "base"), PROVENANCE) == []
    keys = ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha")
    assert [value(file, key) for key in keys] == ["adapter", "qwen2", "lora", 6.0]
    assert value(file, "mlx_align.provenance") == PROVENANCE.json()


def test_tensors(tmp_path: Path) -> None:
    file, made = tmp_path / "adapter.gguf", adapter()
    write(file, made, base(tmp_path / "base"), PROVENANCE)
    found, module = arrays(file), made.modules[Q_PROJ]
    assert found.keys() == {A, B}
    assert (found[A] == module.a).all()
    assert (found[B] == module.b).all()


def test_rows_of_a_llama_are_moved(tmp_path: Path) -> None:
    file, made = tmp_path / "adapter.gguf", adapter()
    write(file, made, base(tmp_path / "base", "llama"), PROVENANCE)
    b = made.modules[Q_PROJ].b
    halves = b.reshape(HEADS, 2, -1, b.shape[1])
    assert (arrays(file)[B] == np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(b.shape)).all()


def test_ranks_that_differ(tmp_path: Path) -> None:
    """llama.cpp divides one alpha by each tensor's own rank."""
    wide, k_proj = adapter(rank=8), Q_PROJ.replace("q_proj", "k_proj")
    both = Adapter({**wide.modules, **adapter((k_proj,), rank=2).modules}, 3.0, 0.0, {})
    file = tmp_path / "adapter.gguf"
    write(file, both, base(tmp_path / "base"), PROVENANCE)
    alpha, found = value(file, "adapter.lora.alpha"), arrays(file)
    for name, module in (("attn_q", both.modules[Q_PROJ]), ("attn_k", both.modules[k_proj])):
        a, b = (found[f"blk.1.{name}.weight.{part}"] for part in ("lora_a", "lora_b"))
        np.testing.assert_allclose(
            alpha / len(a) * (b @ a), 3.0 * (module.b @ module.a), rtol=1e-4, atol=1e-5
        )


def test_half_precision(tmp_path: Path) -> None:
    file = tmp_path / "adapter.gguf"
    write(file, adapter(), base(tmp_path / "base"), PROVENANCE, "f16")
    assert {array.dtype for array in arrays(file).values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize(
    ("made", "dtype", "message"),
    [
        (adapter(magnitude=np.ones(32, np.float32)), "f32", "no DoRA adapters"),
        (adapter(("model.embed_tokens",), embedding=True), "f32", "output head too"),
        (replace(adapter(), modules={}), "f32", "changes nothing"),
        (adapter(), "q8_0", "cannot be written as 'q8_0'"),
    ],
)
def test_refused(made: Adapter, dtype: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        write(tmp_path / "adapter.gguf", made, base(tmp_path / "base"), PROVENANCE, dtype)
    assert not (tmp_path / "adapter.gguf").exists()


def test_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'olmo2' is not written"):
        write(tmp_path / "adapter.gguf", adapter(), base(tmp_path / "base", "olmo2"), PROVENANCE)
