"""One adapter, every format, each in the program that will use it: they are one model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_align.engine.exporting import Exporter, Options
from mlx_align.export.base import Base
from mlx_align.export.gguf import convert
from tests.parity import architectures
from tests.trained import trained_run
from tests.unit.export.provenances import PROVENANCE

LIMIT = 1e-3
"""Of the difference between two probabilities."""

NAMES = ["llama", "qwen2", "qwen3", "qwen3_moe", "gemma3_text", "phi3"]


@pytest.fixture
def exporter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Exporter]:
    """Of a run on a tiny random model of the architecture that the test names."""
    with pytest.MonkeyPatch.context() as patch:
        everywhere = architectures.MIXTURES["qwen3_moe"] | {"decoder_sparse_step": 1}  # what llama.cpp knows
        patch.setitem(architectures.MIXTURES, "qwen3_moe", everywhere)
        folder = architectures.build(request.param, tmp_path / "base")
        settings = {"adapter__modules": "attention"} if request.param == "qwen3_moe" else {}
        yield Exporter(trained_run(tmp_path / "runs", spread=0.3, model__path=str(folder), **settings))


@pytest.mark.slow
@pytest.mark.parametrize("exporter", NAMES, indirect=True)
def test_every_format_is_the_trained_model(exporter: Exporter, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    base_gguf = tmp_path / "base.gguf"
    convert.write(base_gguf, Base.open(exporter.origin.folder), None, PROVENANCE, "f32")
    ways = {
        "mlx-fused": Options(),
        "hf": Options(),
        "peft": Options(),
        "gguf": Options(type="f32"),
        "gguf-adapter": Options(),
    }
    made = {target: exporter.export(target, tmp_path / target, options) for target, options in ways.items()}
    made["graft"] = exporter.export("gguf", tmp_path / "graft.gguf", Options(base_gguf=str(base_gguf)))
    for way, export in made.items():
        figures = export.verification.comparison
        assert export.verification.verified, way
        assert figures is not None
        assert figures.effect > 1e-3, "the adapter does too little for this to prove anything"
        assert figures.difference < LIMIT, (way, figures)
        assert figures.share == pytest.approx(1.0, abs=0.02), (way, figures)
