"""What comes with the package is there, and what the catalog suggests is valid."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_align import embedded, methods
from mlx_align.settings import flatten, gather, resolve

SUGGESTIONS = [(model, method) for model, of_model in embedded.catalog().items() for method in of_model]


def test_the_model_and_the_samples_are_there() -> None:
    model = embedded.model_folder()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert (model / name).is_file(), name
    for kind in {methods.get(name).rows for name in methods.METHODS}:
        assert (embedded.sample_for(kind) / "train.jsonl").is_file()
        assert (embedded.sample_for(kind) / "valid.jsonl").is_file()


@pytest.mark.parametrize(("model", "method"), SUGGESTIONS)
def test_every_suggestion_is_taken_where_nobody_says_otherwise(model: str, method: str) -> None:
    suggested: dict[str, Any] = flatten(embedded.catalog()[model][method])
    assert suggested
    resolved = resolve(gather(method, flags={"model.path": model}, environ={}))
    values = flatten(resolved.config.model_dump(mode="json"))
    for key, value in suggested.items():
        assert values[key] == value
        assert resolved.origins[key] == f"catalog {model}"


def test_the_embedded_model_has_a_suggestion_for_every_method() -> None:
    assert {method for model, method in SUGGESTIONS if model == embedded.TINY_CHAT} == set(methods.METHODS)
