"""The older names of what turns positions: what is missing is added, and nothing else."""

from __future__ import annotations

from mlx_align.rope_names import older_names

LINEAR = {"rope_type": "linear", "factor": 4.0}


def test_what_is_missing_is_added() -> None:
    assert older_names({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}) == {
        "rope_theta": 5e5
    }
    assert older_names({"rope_parameters": {**LINEAR, "rope_theta": 1e4, "partial_rotary_factor": 0.5}}) == {
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "rope_scaling": {**LINEAR, "type": "linear"},
    }


def test_what_is_said_stays() -> None:
    config = {"rope_theta": 1e6, "rope_scaling": None, "rope_parameters": {**LINEAR, "rope_theta": 1e4}}
    assert older_names(config) == {"rope_scaling": {**LINEAR, "type": "linear"}}
    assert older_names({"rope_theta": 1e6}) == older_names({"rope_parameters": None}) == {}


def test_layers_with_a_window_have_their_own() -> None:
    table = {"full_attention": {**LINEAR, "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    found = older_names({"rope_parameters": table})
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (1e6, 1e4)
    assert found["rope_scaling"]["factor"] == 4.0


def test_the_text_part_of_a_model_that_sees() -> None:
    text = {"hidden_size": 8, "rope_parameters": {"rope_theta": 5e5}}
    assert older_names({"text_config": text}) == {"text_config": {**text, "rope_theta": 5e5}}
    assert older_names({"text_config": {"hidden_size": 8, "rope_theta": 5e5}}) == {}
