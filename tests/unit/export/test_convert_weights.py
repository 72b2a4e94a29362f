"""What a GGUF made of Hugging Face weights says of a model, and what is refused lest it say it wrongly."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_align import embedded
from mlx_align.errors import UsageError
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base
from mlx_align.export.gguf import architectures, convert, rotation
from tests.unit.export import gguf_models
from tests.unit.export.gguf_models import HEADS, PROVENANCE, arrays, value

FACTS = {"intermediate_size": 96, "rms_norm_eps": 1e-6, "max_position_embeddings": 512, "rope_theta": 5e5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model with the embedded tokenizer; its embedding has fewer rows than the tokenizer tokens."""
    gguf_models.base(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(embedded.model_folder() / name, tmp_path / "base" / name)
    return tmp_path / "base"


def base(folder: Path, model_type: str = "qwen2", **facts: Any) -> Base:
    """The small model with other keys in its config.json."""
    opened = Base.open(folder)
    return replace(opened, config=opened.config | FACTS | {"model_type": model_type} | facts)


def with_weights(folder: Path, **weights: np.ndarray) -> None:
    """Put tensors in the place of the model's own or beside them."""
    tensors = {name: tensor.float32() for name, tensor in Base.open(folder).tensors.items()}
    save_file(tensors | weights, folder / "model.safetensors")


def test_keys(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    convert.write(file, base(folder), None, PROVENANCE, "f32")
    wanted = {
        "general.architecture": "qwen2",
        "general.type": "model",
        "general.name": "owner/base",
        "general.file_type": 0,
        "mlx_align.provenance": PROVENANCE.json(),
        "qwen2.block_count": 2,
        "qwen2.context_length": 512,
        "qwen2.embedding_length": 256,
        "qwen2.feed_forward_length": 96,
        "qwen2.attention.head_count": HEADS,
        "qwen2.attention.head_count_kv": 2,
        "qwen2.attention.key_length": 8,
        "qwen2.rope.dimension_count": 8,
        "qwen2.rope.freq_base": 5e5,
        "qwen2.vocab_size": 64,
    }
    assert {key: value(file, key) for key in wanted} == wanted
    assert "token_embd.weight" in arrays(file)
    assert "output.weight" not in arrays(file)


def test_the_largest_tensor_is_all_that_is_in_memory(folder: Path, tmp_path: Path) -> None:
    large = np.zeros((64, 1 << 13), np.float32)  # 2 MiB each
    with_weights(folder, **{f"model.layers.{n}.self_attn.o_proj.weight": large for n in range(2)})
    many = {
        f"model.layers.{n}.mlp.{part}_proj.weight": large for n in range(2) for part in ("up", "gate", "down")
    }
    with_weights(folder, **many)
    opened = base(folder)
    convert.write(tmp_path / "first.gguf", opened, None, PROVENANCE)  # imports
    tracemalloc.start()
    convert.write(tmp_path / "model.gguf", opened, None, PROVENANCE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert large.nbytes < peak < 3 * large.nbytes


@pytest.mark.parametrize("kind", convert.FILE_TYPES)
def test_types(kind: str, folder: Path, tmp_path: Path) -> None:
    with_weights(folder, **{"model.norm.weight": np.arange(256, dtype=np.float32)})
    file = tmp_path / "model.gguf"
    notes = convert.write(file, base(folder), None, PROVENANCE, kind)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    assert tensors["blk.1.attn_q.weight"].tensor_type.name == kind.upper()
    assert tensors["output_norm.weight"].tensor_type.name == "F32"
    embedding = tensors["token_embd.weight"]
    coarse = kind in ("q4_0", "q5_1")
    assert embedding.tensor_type.name == ("Q8_0" if coarse else kind.upper())
    assert any("token_embd.weight became q8_0" in note for note in notes) == coarse
    values = gguf.quants.dequantize(embedding.data, embedding.tensor_type)
    expected = Base.open(folder).weight("model.embed_tokens")
    np.testing.assert_allclose(values, expected, atol={"f32": 0, "f16": 2e-3, "bf16": 2e-2}.get(kind, 2e-2))


def test_rows_that_do_not_divide(folder: Path, tmp_path: Path) -> None:
    with_weights(folder, **{"model.layers.0.mlp.down_proj.weight": np.ones((256, 48), np.float32)})
    notes = convert.write(tmp_path / "model.gguf", base(folder), None, PROVENANCE, "q8_0")
    assert any("1 tensors became f16" in note and "blk.0.ffn_down.weight" in note for note in notes)


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_numbers_that_do_not_fit(kind: str, folder: Path, tmp_path: Path) -> None:
    with_weights(folder, **{"model.layers.0.mlp.down_proj.weight": np.full((256, 96), 7e4, np.float32)})
    with pytest.raises(UsageError, match=f"down_proj.weight' has numbers that {kind} cannot hold"):
        convert.write(tmp_path / "model.gguf", base(folder), None, PROVENANCE, kind)
    convert.write(tmp_path / "model.gguf", base(folder), None, PROVENANCE, "bf16")


def test_norms_of_gemma_get_their_one(folder: Path, tmp_path: Path) -> None:
    with_weights(folder, **{"model.layers.0.self_attn.q_norm.weight": np.full(8, 0.25, np.float32)})
    convert.write(tmp_path / "g.gguf", base(folder, "gemma3_text", query_pre_attn_scalar=8), None, PROVENANCE)
    assert (arrays(tmp_path / "g.gguf")["blk.0.attn_q_norm.weight"] == 1.25).all()
    convert.write(tmp_path / "q.gguf", base(folder, "qwen3"), None, PROVENANCE)
    assert (arrays(tmp_path / "q.gguf")["blk.0.attn_q_norm.weight"] == 0.25).all()


def test_experts_of_either_layout(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fused = rng.normal(size=(3, 2 * 48, 256)).astype(np.float32)
    down = rng.normal(size=(3, 256, 48)).astype(np.float32)
    layer = "model.layers.0.mlp.experts"
    apart = {f"{layer}.{n}.{part}_proj.weight": fused[n, rows].copy() for n in range(3)
             for part, rows in (("gate", slice(48)), ("up", slice(48, None)))}  # fmt: skip
    apart |= {f"{layer}.{n}.down_proj.weight": down[n] for n in range(3)}
    facts = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    made = []
    for number, weights in enumerate((apart, {f"{layer}.gate_up_proj": fused, f"{layer}.down_proj": down})):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(folder, copy)
        with_weights(copy, **weights)
        file = tmp_path / f"{number}.gguf"
        convert.write(file, base(copy, "qwen3_moe", **facts), None, PROVENANCE, "f32")
        made.append(arrays(file))
    assert made[0].keys() == made[1].keys()
    for name, tensor in made[0].items():
        np.testing.assert_array_equal(tensor, made[1][name])
    np.testing.assert_array_equal(made[0]["blk.0.ffn_up_exps.weight"], fused[:, 48:])


def test_an_adapter_that_fits_nowhere(folder: Path, tmp_path: Path) -> None:
    module = Module(np.zeros((2, 256), np.float32), np.zeros((64, 2), np.float32))
    adapter = Adapter({"lm_head": module}, 1.0, 0.0, {})
    with pytest.raises(UsageError, match="no weight for the adapter's module 'lm_head'"):
        convert.write(tmp_path / "model.gguf", base(folder), adapter, PROVENANCE)


def test_a_tensor_without_a_place(folder: Path, tmp_path: Path) -> None:
    with_weights(folder, **{"model.layers.0.self_attn.sinks.weight": np.zeros(8, np.float32)})
    with pytest.raises(UsageError, match=r"no place for 'model\.layers\.0\.self_attn\.sinks\.weight'"):
        convert.write(tmp_path / "model.gguf", base(folder), None, PROVENANCE)


@pytest.mark.parametrize(
    ("model_type", "facts", "message"),
    [
        ("olmo2", {}, "from the weights of the architecture 'olmo2'"),
        ("llama", {"hidden_act": "gelu"}, "'hidden_act' to be 'silu'"),
        ("llama", {"layer_types": ["sliding_attention"]}, "no windows"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "stretch positions by 'dynamic'"),
        ("qwen3", {"rope_scaling": {"type": "longrope"}}, "stretch positions by 'longrope'"),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 1.0}}, "its own 'mscale'"),
        ("qwen3_moe", {"norm_topk_prob": False}, "'norm_topk_prob' to be True"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "'decoder_sparse_step' to be 1"),
        ("qwen3_moe", {}, "config.json has no num_experts"),
        ("gemma3_text", {"query_pre_attn_scalar": 16}, "'query_pre_attn_scalar' to be 8"),
        ("gemma3_text", {"query_pre_attn_scalar": 8, "final_logit_softcapping": 9.0}, "'final_logit"),
        ("llama", {"rms_norm_eps": None}, "config.json has no rms_norm_eps"),
    ],
)  # fmt: skip
def test_refused(model_type: str, facts: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        convert.write(tmp_path / "model.gguf", base(folder, model_type, **facts), None, PROVENANCE)


LONGROPE = {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(("beside", "border"), [({}, 4096), ({"original_max_position_embeddings": 128}, 128)])
def test_the_border_of_a_phi_stands_beside_the_table(
    beside: dict[str, int], border: int, folder: Path
) -> None:
    """As transformers and mlx-lm read it, whatever the table has."""
    table = {**LONGROPE, "original_max_position_embeddings": 256}
    found = rotation.facts(base(folder, "phi3", rope_scaling=table, **beside))
    assert found["rope.scaling.original_context_length"] == border


@pytest.mark.parametrize("border", [[4096], float("inf")])
def test_a_border_that_is_no_number(border: Any, folder: Path) -> None:
    facts = {"rope_scaling": LONGROPE, "original_max_position_embeddings": border}
    with pytest.raises(UsageError, match="no number of tokens"):
        rotation.facts(base(folder, "phi3", **facts))


def test_what_is_refused_names_the_way_out(folder: Path) -> None:
    with pytest.raises(UsageError, match="--base-gguf"):
        architectures.family(base(folder, "olmo2"))


def test_unknown_type(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="K-quants are made by"):
        convert.write(tmp_path / "model.gguf", base(folder), None, PROVENANCE, "q4_k_m")


@pytest.mark.parametrize(
    ("name", "strips", "expected"),
    [
        ("owner/base", False, "owner/base"),
        ("owner/Phi-3-mini", True, "owner/Phi-3-mini"),
        ("owner/Phi-3-mini", False, "owner/phi 3-mini"),  # llama.cpp would look for Phi 3's tokens and fail
        ("my-model", True, "my-model (phi-3)"),
    ],
)
def test_name(name: str, strips: bool, expected: str, folder: Path, tmp_path: Path) -> None:
    if strips:
        file = folder / "tokenizer.json"
        facts = json.loads(file.read_text(encoding="utf-8"))
        texts = ("<unk>", "<s>", "<|endoftext|>", "</s>", "<|end|>")
        facts["added_tokens"] = [
            {"id": n, "content": text, "special": True, "rstrip": n > 2} for n, text in enumerate(texts)
        ]
        file.write_text(json.dumps(facts), encoding="utf-8")
    convert.write(tmp_path / "model.gguf", base(folder), None, replace(PROVENANCE, base=name))
    assert value(tmp_path / "model.gguf", "general.name") == expected


def test_rope_is_read_as_transformers_reads_it(folder: Path) -> None:
    """The table comes before what stands beside it; null is for layers that turn nothing."""
    both = base(folder, "llama", rope_theta=1e6, rope_parameters={"rope_theta": 500.0})
    assert architectures.facts(both, 64)["rope.freq_base"] == 500.0
    beside = base(folder, "llama", rope_theta=1e6, rope_parameters={"rope_type": "default"})
    assert architectures.facts(beside, 64)["rope.freq_base"] == 1e6
    halves = {"full_attention": {"rope_theta": 2e6}, "sliding_attention": None}
    model = base(folder, "gemma3_text", query_pre_attn_scalar=8, rope_theta=None, rope_parameters=halves)
    facts = architectures.facts(model, 64)
    assert (facts["rope.freq_base"], facts["rope.freq_base_swa"]) == (2e6, 1e4)


def test_rope_of_gemma3(folder: Path) -> None:
    parameters = {"full_attention": {"rope_theta": 2e6}, "sliding_attention": {"rope_theta": 3e4}}
    model = base(folder, "gemma3_text", query_pre_attn_scalar=8, rope_theta=None, rope_parameters=parameters)
    facts = architectures.facts(model, 64)
    assert (facts["rope.freq_base"], facts["rope.freq_base_swa"]) == (2e6, 3e4)
    assert facts["attention.sliding_window_pattern"] == 6
