"""Exports of a base that turns short and long texts by other factors: who reads them how, and with what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_align.engine.exporting import readers as reading
from mlx_align.engine.exporting.options import Options
from mlx_align.engine.exporting.origin import find_origin
from mlx_align.engine.exporting.targets import TARGETS
from mlx_align.runs.atomic import write_json
from tests.trained import trained_run
from tests.unit.export.provenances import PROVENANCE

SHORT, LONG = ({"list": kind, "border": 4096} for kind in ("short", "long"))


@pytest.mark.parametrize(
    ("factors", "loaders", "said"),
    [
        ({"long_factor": [2.0]}, ("mlx",), [reading.BY_LENGTH]),
        ({"short_mscale": 1.1, "long_mscale": 1.3}, ("mlx",), [reading.BY_LENGTH]),
        ({"long_factor": [2.0]}, ("torch", "mlx"), []),
        ({"long_factor": [2.0]}, ("llama",), []),
        ({}, ("mlx",), []),
    ],
)
def test_a_base_that_turns_by_length_is_said(
    factors: dict[str, Any], loaders: tuple[str, ...], said: list[str], tmp_path: Path
) -> None:
    scaling = {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0], **factors}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "phi3", "rope_scaling": scaling}))
    around = reading.Surroundings(PROVENANCE, base=tmp_path)
    assert list(reading.otherwise(loaders, True, tmp_path, around)) == said


@pytest.mark.parametrize(("read", "wanted"), [(SHORT, "at most 4096"), (LONG, "more than 4096")])
def test_llama_cpps_context_is_to_fit_what_was_trained(read: dict[str, Any], wanted: str) -> None:
    around = reading.Surroundings(replace(PROVENANCE, positions=read))
    (told,) = reading.otherwise(("llama",), False, Path("model.gguf"), around)
    assert f"context of {wanted} tokens" in told
    assert f"trained with those for {read['list']} texts" in told


@pytest.mark.parametrize("target", ["gguf", "gguf-adapter"])
def test_the_command_has_the_context_for_short_texts(target: str) -> None:
    """By default llama.cpp may take the largest that the model has, and with it the other list."""
    for read, ends in ((None, ".gguf"), (LONG, ".gguf"), (SHORT, ".gguf -c 4096")):
        origin: Any = SimpleNamespace(provenance=replace(PROVENANCE, positions=read))
        assert TARGETS[target].then(Path("model.gguf"), origin, Options()).endswith(ends)


def test_what_a_run_was_read_with_travels(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "runs")
    assert find_origin(run, None).provenance.positions is None
    write_json(run.path / "env.json", {**run.env(), "positions": SHORT})
    assert find_origin(run, None).provenance.positions == SHORT
