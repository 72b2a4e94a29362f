"""What GGUF calls a model's tensors, and the order of a head's rows in it."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_align.errors import UsageError
from mlx_align.export.gguf.names import ARCHITECTURES, Names, architecture
from mlx_align.export.gguf.permute import permuted, rotated_heads

Q, K, V = (f"model.layers.0.self_attn.{name}_proj" for name in "qkv")


@pytest.mark.parametrize(
    ("model", "name", "wanted"),
    [
        ("llama", "model.layers.1.self_attn.q_proj", "blk.1.attn_q"),
        ("llama", "lm_head.weight", "output.weight"),
        ("mistral", "model.norm.weight", "output_norm.weight"),
        ("qwen2", "model.layers.0.self_attn.k_proj.bias", "blk.0.attn_k.bias"),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight"),
        ("qwen3_moe", "model.layers.1.mlp.switch_mlp.down_proj", "blk.1.ffn_down_exps"),
        ("qwen3_moe", "model.layers.1.mlp.gate", "blk.1.ffn_gate_inp"),
        ("gemma2", "model.layers.0.post_attention_layernorm.weight", "blk.0.post_attention_norm.weight"),
        ("gemma3", "language_model.model.layers.0.mlp.up_proj", "blk.0.ffn_up"),
        ("gemma3_text", "model.embed_tokens", "token_embd"),
        ("phi3", "model.layers.1.self_attn.qkv_proj", "blk.1.attn_qkv"),
        ("phi3", "model.layers.1.mlp.gate_up_proj", "blk.1.ffn_up"),
    ],
)
def test_names(model: str, name: str, wanted: str) -> None:
    assert Names(architecture(model), 2).of(name) == wanted


def test_every_architecture_has_names() -> None:
    assert all(Names(name, 1).find(Q.replace("q_proj", "o_proj")) for name in ARCHITECTURES.values())


def test_no_such_tensor() -> None:
    with pytest.raises(UsageError, match="no place for"):
        Names("llama", 2).of("model.layers.2.self_attn.q_proj")


def test_unknown_architecture() -> None:
    with pytest.raises(UsageError, match="'mamba2' is not written as GGUF") as caught:
        architecture("mamba2")
    assert "--to hf" in (caught.value.hint or "")


def test_which_rows_move() -> None:
    assert [rotated_heads(name, "llama", 8, 2) for name in (Q, K, V)] == [8, 2, None]
    assert [rotated_heads(name, "qwen2", 8, 2) for name in (Q, K, V)] == [None, None, None]


@pytest.mark.parametrize("shape", [(24,), (24, 5)])
def test_rotating_neighbours_is_rotating_halves(shape: tuple[int, ...]) -> None:
    """Row 2i and 2i + 1 of a head are what was row i of its first and of its second half."""
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    heads, moved = rows.reshape(3, 8, *shape[1:]), permuted(rows, 3).reshape(3, 8, *shape[1:])
    for i in range(4):
        assert (moved[:, 2 * i] == heads[:, i]).all()
        assert (moved[:, 2 * i + 1] == heads[:, 4 + i]).all()
    assert permuted(rows, None) is rows
