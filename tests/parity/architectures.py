"""Tiny random models of the architectures that transformers and mlx-lm both have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mlx_align import embedded

WINDOW = 16
"""Shorter than the test sequences."""

COMMON: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "initializer_range": 0.15,  # large enough that attention is sharp and the answers differ in likelihood
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1023,
    "pad_token_id": 1021,
}
GEMMA: dict[str, Any] = {"head_dim": 16, "query_pre_attn_scalar": 16, "tie_word_embeddings": True}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "attention_bias": False},
    "qwen2": {"model_type": "qwen2"},  # with biases on q, k and v
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "gemma2": {  # scores and logits soft-capped; mlx-lm has no window here, so ours is longer than the rows
        "model_type": "gemma2",
        **GEMMA,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 8.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 1024,
    },
    "gemma3_text": {  # two layers with a window, then one without, each kind with its own rotation
        "model_type": "gemma3_text",
        **GEMMA,
        "rope_local_base_freq": 1000.0,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 3,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "phi3": {"model_type": "phi3", "sliding_window": None},  # q, k, v in one matrix, gate and up in another
    "mistral": {"model_type": "mistral", "sliding_window": None},  # mlx-lm ignores a window where it is set
}

MIXTURES: dict[str, dict[str, Any]] = {  # of experts; the exports have to know how each keeps them
    name: {
        "model_type": name,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 48,
    }
    for name in ("qwen3_moe", "qwen2_moe", "olmoe")
}
# The first and third layer are dense.
MIXTURES["qwen3_moe"] |= {"head_dim": 16, "decoder_sparse_step": 2, "norm_topk_prob": True}


def build(name: str, folder: Path) -> Path:
    """Write a model folder as the hub has them, with the embedded model's tokenizer and template."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    facts = {**COMMON, **(ARCHITECTURES | MIXTURES)[name]}
    kind = facts.pop("model_type")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **facts), dtype=torch.float32)
    for weight, value in model.named_parameters():
        if value.ndim == 1:  # norms and biases, which would all begin as 0 or 1
            value.data += 0.2 * torch.randn_like(value)
        assert torch.isfinite(value).all(), weight
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # transformers 5 writes rope_parameters, which mlx-lm does not read for these; the hub has both forms.
    (folder / "config.json").write_text(json.dumps({**written, **facts, "model_type": kind}))
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(embedded.model_folder() / file, folder / file)
    return folder
