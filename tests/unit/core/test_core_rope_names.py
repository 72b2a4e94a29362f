"""The older names of what turns positions: what is missing is added, and nothing else."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from mlx_align.rope_names import older_names, tables

LINEAR = {"rope_type": "linear", "factor": 4.0}


def test_what_is_missing_is_added() -> None:
    assert older_names({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}) == {
        "rope_theta": 5e5,
        "rope_scaling": None,
    }
    assert older_names({"rope_parameters": {**LINEAR, "rope_theta": 1e4, "partial_rotary_factor": 0.5}}) == {
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "rope_scaling": {**LINEAR, "type": "linear"},
    }


def test_what_transformers_goes_by_stays() -> None:
    """The table comes before a theta beside it, and a stretching beside it before the table."""
    config = {"rope_theta": 1e6, "rope_scaling": None, "rope_parameters": {**LINEAR, "rope_theta": 1e4}}
    assert older_names(config) == {"rope_theta": 1e4, "rope_scaling": {**LINEAR, "type": "linear"}}
    assert older_names({**config, **older_names(config)}) == {}
    assert older_names({**config, "rope_scaling": {"type": "dynamic", "factor": 2.0}}) == {}
    assert older_names({"rope_theta": 1e6}) == older_names({"rope_parameters": None}) == {}


CONFIGS = [
    {"rope_theta": 1e6, "rope_parameters": {**LINEAR, "rope_theta": 1e4}},
    {"rope_theta": 1e6, "rope_parameters": LINEAR},
    {"rope_theta": 1e6, "rope_scaling": LINEAR},
    {"rope_theta": 1e6, "rope_scaling": LINEAR, "rope_parameters": {"rope_theta": 1e4}},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_transformers_reads_the_same(config: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    read, again = (
        transformers.LlamaConfig(**deepcopy(each)).rope_parameters
        for each in (config, {**config, **older_names(config)})
    )
    assert read.pop("type", "default") in ("default", "linear")
    again.pop("type", None)
    whole, _ = tables(config)
    assert again == read == {"rope_type": "default"} | whole


def test_names_that_only_one_architecture_has() -> None:
    table = {"rope_theta": 5e5, "partial_rotary_factor": 0.25}
    assert older_names({"model_type": "gpt_neox", "rope_parameters": table}) == {
        "rotary_emb_base": 5e5, "rotary_pct": 0.25, "rope_scaling": None
    }  # fmt: skip
    layers = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    assert older_names({"model_type": "mimo_v2_flash", "rope_parameters": layers}) == {
        "rope_theta": 1e6, "swa_rope_theta": 1e4
    }  # fmt: skip


def test_layers_with_a_window_have_their_own() -> None:
    table = {"full_attention": {**LINEAR, "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    found = older_names({"model_type": "gemma3_text", "rope_parameters": table})
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (1e6, 1e4)
    assert found["rope_scaling"]["factor"] == 4.0
    assert "rope_scaling" not in older_names({"model_type": "mellum", "rope_parameters": table}), (
        "transformers would take it for all layers"
    )


def test_what_one_kind_of_layers_lacks_does_not_stand_beside_both() -> None:
    """As in Gemma 4: a share at the top would be llama.cpp's for the layers with a window too."""
    whole = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}
    table = {"full_attention": whole, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    config = {"model_type": "gemma4_text", "rope_parameters": table}
    assert older_names(config) == {"rope_theta": 1e6, "rope_local_base_freq": 1e4}
    table["sliding_attention"].pop("rope_theta")
    assert older_names(config) == {}
    table["sliding_attention"]["partial_rotary_factor"] = 0.25
    assert older_names(config) == {"partial_rotary_factor": 0.25}


def test_layers_that_turn_nothing() -> None:
    turned = {"rope_theta": 1e6}
    for table in (
        {"full_attention": None, "sliding_attention": turned},
        {"full_attention": turned, "sliding_attention": None},
    ):
        assert older_names({"model_type": "x", "rope_parameters": table})["rope_theta"] == 1e6
    assert older_names({"rope_parameters": {"full_attention": None}}) == {}


def test_the_text_part_of_a_model_that_sees() -> None:
    text = {"hidden_size": 8, "rope_parameters": {"rope_theta": 5e5}}
    assert older_names({"text_config": text}) == {
        "text_config": {**text, "rope_theta": 5e5, "rope_scaling": None}
    }
    assert older_names({"text_config": {"hidden_size": 8, "rope_theta": 5e5}}) == {}
