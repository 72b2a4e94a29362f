"""What llama.cpp must be told of a model besides its weights, by architecture.

Each family's facts are those that llama.cpp reads. What it takes for granted (an activation, the scale of
the attention) is looked at in config.json, and a model that differs is refused: it would load, and answer
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import UsageError
from mlx_align.export.base import Base
from mlx_align.export.gguf import rotation

Facts = dict[str, int | float | str | bool]
"""Keys without the architecture's name before them -> values."""

ROUTER = "ffn_gate_inp"
"""The part of a GGUF name by which a router of experts is known; it stays in float32."""


@dataclass(frozen=True)
class Family:
    """How one model_type is written.

    Attributes:
        facts: the keys that this family has and others do not.
        norm_shift: what is added to the weights of norms; Gemma keeps them as a difference from 1.
        tensors: tensors that are no weights, by their names in GGUF.
    """

    facts: Callable[[Base], Facts]
    norm_shift: float = 0.0
    tensors: Callable[[Base], dict[str, NDArray[np.float32]]] = rotation.factors


def family(base: Base) -> Family:
    """The family of a base model.

    Raises:
        UsageError: it has none here.
    """
    if base.architecture not in FAMILIES:
        raise UsageError(
            f"a GGUF cannot be written from the weights of the architecture '{base.architecture}'",
            where=str(base.folder),
            hint=f"Known are {', '.join(FAMILIES)}. If a GGUF of the base model exists, put the adapter into "
            "that: --base-gguf FILE.",
        )
    return FAMILIES[base.architecture]


def facts(base: Base, rows: int) -> Facts:
    """All keys of a model, without the architecture's name before them.

    Args:
        base: the model.
        rows: rows of the embedding.

    Raises:
        UsageError: something in config.json is other than llama.cpp takes it to be.
    """
    common: Facts = {
        "block_count": base.layers,
        "context_length": int(base.fact("max_position_embeddings")),
        "embedding_length": base.hidden,
        "feed_forward_length": int(base.fact("intermediate_size")),
        "attention.head_count": base.heads,
        "attention.head_count_kv": base.kv_heads,
        "attention.key_length": base.head_dim,
        "attention.value_length": base.head_dim,
        "attention.layer_norm_rms_epsilon": float(base.fact("rms_norm_eps")),
        "vocab_size": rows,
    }
    return common | rotation.facts(base) | family(base).facts(base)


def _need(base: Base, key: str, *allowed: Any) -> None:
    """See that a key is absent or has one of the values that llama.cpp's code stands for."""
    found = base.config.get(key, allowed[0])
    if found not in allowed:
        raise UsageError(
            f"llama.cpp takes '{key}' to be {allowed[0]!r} in this architecture, the model has {found!r}",
            where=f"config.json, key '{key}'",
        )


def _plain(base: Base) -> Facts:
    """Llama, Mistral, Qwen 2 and 3: nothing of their own."""
    _need(base, "hidden_act", "silu")
    if base.architecture == "llama" and "sliding_attention" in (base.config.get("layer_types") or []):
        raise UsageError("llama.cpp has no windows here", where="config.json, key 'layer_types'")
    return {}


def _qwen3_moe(base: Base) -> Facts:
    _need(base, "norm_topk_prob", True)
    _need(base, "decoder_sparse_step", 1)
    _need(base, "mlp_only_layers", [], None)
    return {
        **_plain(base),
        "expert_count": int(base.fact("num_experts")),
        "expert_used_count": int(base.fact("num_experts_per_tok")),
        "expert_feed_forward_length": int(base.fact("moe_intermediate_size")),
    }


def _gemma(base: Base, layers_of_27b: int) -> None:
    """llama.cpp has the scale of the attention in its code; the model of 27 billion weights has its own."""
    _need(base, "hidden_activation", "gelu_pytorch_tanh", None)
    scale = base.hidden // base.heads if base.layers == layers_of_27b else base.head_dim
    _need(base, "query_pre_attn_scalar", scale)


def _gemma2(base: Base) -> Facts:
    _gemma(base, layers_of_27b=46)
    return {
        "attention.sliding_window": int(base.fact("sliding_window", 4096)),
        "attn_logit_softcapping": float(base.fact("attn_logit_softcapping", 50.0)),
        "final_logit_softcapping": float(base.fact("final_logit_softcapping", 30.0)),
    }


def _gemma3(base: Base) -> Facts:
    _gemma(base, layers_of_27b=62)
    _need(base, "attn_logit_softcapping", None)
    _need(base, "final_logit_softcapping", None)
    pattern = base.fact("sliding_window_pattern", base.fact("_sliding_window_pattern", 6))
    return {
        "attention.sliding_window": int(base.fact("sliding_window", 512)),
        "attention.sliding_window_pattern": int(pattern),
        "rope.freq_base_swa": rotation.windowed_theta(base, 1e4),
    }


def _phi3(base: Base) -> Facts:
    _need(base, "hidden_act", "silu")
    return {"attention.sliding_window": int(base.fact("sliding_window", 0))}


FAMILIES: dict[str, Family] = {
    "llama": Family(_plain),
    "mistral": Family(_plain),
    "qwen2": Family(_plain),
    "qwen3": Family(_plain),
    "qwen3_moe": Family(_qwen3_moe),
    "gemma2": Family(_gemma2, norm_shift=1.0),
    "gemma3_text": Family(_gemma3, norm_shift=1.0),
    "phi3": Family(_phi3),
}
"""By config.json's model_type."""
