"""Small mlx-lm models of many architectures, with random weights."""

from __future__ import annotations

import importlib
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.tuner.utils import linear_to_lora_layers

WINDOW = 8
"""Shorter than the prompts."""

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 256,
    "head_dim": 16,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
BY_TURNS = ["sliding_attention", "full_attention"] * 2
GEMMA3 = {"sliding_window": WINDOW, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16}

SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "llama with windows": ("llama", {"layer_types": SLIDING, "sliding_window": WINDOW}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": ("qwen3_moe", MOE),
    "gemma3_text": ("gemma3_text", GEMMA3),
    "gemma4_text": (  # the last two layers attend to the keys and values of the first two
        "gemma4_text",
        {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "layer_types": BY_TURNS,
            "sliding_window": WINDOW,
            "global_head_dim": 32,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 256,
        },
    ),
    "hunyuan": (  # every second layer attends to the keys and values of the one before it
        "hunyuan",
        {
            "num_hidden_layers": 4,
            "use_cla": True,
            "cla_share_factor": 2,
            "attention_bias": False,
            "use_mixed_mlp_moe": False,
            "num_shared_expert": 0,
            "use_qk_norm": True,
            "moe_topk": 1,
            "num_experts": 1,
            "rope_scaling": {"alpha": 1.0, "factor": 1.0, "type": "dynamic"},
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            "num_hidden_layers": 4,
            "layer_types": BY_TURNS,
            "sliding_window": WINDOW,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    "phi3": ("phi3", {"rope_scaling": None, "partial_rotary_factor": 1.0}),
    "olmo2": ("olmo2", {}),
    "granite": (
        "granite",
        {
            "logits_scaling": 4.0,
            "attention_multiplier": 0.25,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.7,
            "attention_bias": False,
            "mlp_bias": False,
        },
    ),
}
GEMMA2 = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 16}
GEMMA3N: dict[str, Any] = {
    "model_type": "gemma3n",
    "text_config": {
        **COMMON,
        "model_type": "gemma3n_text",
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": BY_TURNS,
        "sliding_window": WINDOW,
        "vocab_size_per_layer_input": 256,
        "hidden_size_per_layer_input": 8,
        "rope_local_base_freq": 10000.0,
        "final_logit_softcapping": 30.0,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "altup_num_inputs": 2,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "altup_active_idx": 0,
        "laurel_rank": 8,
    },
}
"""Its last two layers have keys and values of their own, and use them only where there is no cache."""
ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
AFM7: dict[str, Any] = {
    "model_type": "afm7",
    "vocab_size": 256,
    "hidden_dim": 64,
    "num_layers": 3,
    "num_kv_reuse_layers": 1,
    "num_heads": 4,
    "num_kv_heads": 2,
}
MAMBA: dict[str, Any] = {
    "model_type": "mamba",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "state_size": 8,
    "num_hidden_layers": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 4,
}


def build(kind: str, **facts: Any) -> nn.Module:
    mx.random.seed(1)
    file = importlib.import_module(f"mlx_lm.models.{kind}")
    arguments = facts if "model_type" in facts else {"model_type": kind, **COMMON, **facts}
    model = file.Model(file.ModelArgs.from_dict(arguments))
    model.update(
        tree_map(lambda x: x * 3 if x.ndim > 1 else x, model.parameters())
    )  # so that attention is sharp
    return model


def with_lora(model: nn.Module, dropout: float = 0.0, **facts: Any) -> nn.Module:
    model.freeze()
    linear_to_lora_layers(model, len(model.layers), {"rank": 4, "scale": 2.0, "dropout": dropout, **facts})
    model.update(tree_map(lambda x: mx.random.normal(x.shape) * 0.05, model.trainable_parameters()))
    mx.eval(model.parameters())
    return model
