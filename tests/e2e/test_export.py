"""The way out as a person goes it: train, export, move the file away, verify it there, in real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_align.engine.exporting import Exporter, Options, choices
from tests import support
from tests.e2e.test_mlx_lm import quantised
from tests.trained import trained_run

PROGRAM = [sys.executable, "-m", "mlx_align_cli.main"]


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_train_export_move_verify(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    run = support.new_run(tmp_path / "runs", "orpo", optim__lr=5e-3)
    assert support.engine(run) == 0
    done = program("export", str(run.path), "--to", "mlx", "--to", "gguf", "--to", "gguf-adapter", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    made = {line["target"]: line for line in lines if line["type"] == "exported"}
    for target, loader in (("mlx", "mlx-lm"), ("gguf", "llama.cpp"), ("gguf-adapter", "llama.cpp")):
        figures = made[target]["verification"]["figures"]
        assert figures["loader"].startswith(loader)
        assert figures["share"] == pytest.approx(1.0, abs=0.05)
        assert figures["other_tokens"] == []
    assert [line["stage"] for line in lines if line["type"] == "progress"].count("asking") == 1
    exports = sorted(item.name for item in (run.path / "exports").iterdir())
    assert not [name for name in exports if name.startswith(".")]

    away = tmp_path / "away"
    away.mkdir()
    file = Path(made["gguf"]["path"])
    for item in (file, file.with_name(f"{file.name}.mlx-align.json")):
        item.rename(away / item.name)
    again = program("verify", str(away / file.name))
    assert again.returncode == 0, again.stderr
    assert "verified by llama.cpp" in again.stdout

    adapter = Path(made["gguf-adapter"]["path"])
    base = tmp_path / "base.gguf"
    (away / file.name).rename(base)  # a model that has the adapter already: twice is wrong
    twice = program("verify", str(adapter), "--base-gguf", str(base))
    assert twice.returncode == 1
    assert "not the model that was trained" in twice.stderr


@pytest.mark.slow
def test_a_quantised_base_both_ways(tmp_path: Path) -> None:
    """Its own quantisation kept, or taken away: exact. Quantised again it costs something, which is shown."""
    run = trained_run(tmp_path / "runs", spread=0.05, model__path=str(quantised(tmp_path / "base")))
    exporter = Exporter(run)
    merged = exporter.export("hf").verification.comparison
    assert merged is not None
    assert merged.loader.startswith("transformers")
    assert merged.difference < 1e-3
    kept, none, again = choices(exporter, Options())
    assert (kept.quantization, none.quantization, again.quantization) == ("kept", "none", "again")
    assert max(kept.comparison.kl, none.comparison.kl) < 1e-6
    assert again.comparison.kl > 100 * kept.comparison.kl
    assert again.size < kept.size < none.size
    unread = exporter.export("peft").verification
    assert not unread.verified
    assert "MLX quantised" in str(unread.reason)
