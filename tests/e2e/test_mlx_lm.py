"""What we write is mlx-lm's own format: its tools load it and compute what we compute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from mlx_align import backends, embedded
from mlx_align.config import BackendConfig
from mlx_align.data import collate
from mlx_align.runs import RunDirectory
from tests import support


def quantised(folder: Path) -> Path:
    """The embedded model, quantised to 4 bits by mlx-lm itself."""
    from mlx_lm.convert import convert

    convert(str(embedded.model_folder()), str(folder), quantize=True, q_bits=4, q_group_size=64)
    return folder


def logps_by_mlx_lm(model: Any) -> list[np.ndarray]:
    """Log-probabilities of some sample answers by a model that mlx-lm loaded."""
    found = []
    for example in support.examples()[:4]:
        for branch in example.branch_ids:
            ids = mx.array([[*example.prompt_ids, *branch]])
            logits = model(ids[:, :-1]).astype(mx.float32)[0, len(example.prompt_ids) - 1 :]
            table = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            found.append(table[np.arange(len(branch)), list(branch)])
    return found


def assert_same_as_ours(run: RunDirectory, base: Path, atol: float) -> None:
    policy = backends.create(BackendConfig(device="cpu")).load_for_generation(base, run.adapter)
    batch = collate(support.examples()[:4])
    ours, lens = policy.logps(batch), batch.branch_mask.sum(axis=1).astype(int)
    bare = logps_by_mlx_lm(mlx_lm.load(str(base))[0])
    theirs = logps_by_mlx_lm(mlx_lm.load(str(base), adapter_path=str(run.adapter))[0])
    moved = 0.0
    for row, (want, base_logps) in enumerate(zip(theirs, bare, strict=True)):
        np.testing.assert_allclose(ours[row, : lens[row]], want, atol=atol)
        moved = max(moved, float(np.abs(want - base_logps).max()))
    assert moved > 0.01, "the adapter changes nothing"


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapter_gives_the_same_logits_in_mlx_lm(tmp_path: Path, kind: str) -> None:
    run = support.new_run(tmp_path / "runs", "orpo", adapter__type=kind, optim__lr=5e-3)
    assert support.engine(run) == 0
    assert_same_as_ours(run, embedded.model_folder(), 1e-4)


def test_quantised_base(tmp_path: Path) -> None:
    base = quantised(tmp_path / "base")
    run = support.new_run(tmp_path / "runs", "orpo", model__path=str(base), optim__lr=5e-3)
    assert support.engine(run) == 0
    state = run.state()
    assert all(not step.skipped for step in state.steps)
    assert_same_as_ours(run, base, 2e-3)  # mlx-lm keeps the scales in the file's dtype, we use float32


def test_mlx_lm_generate_and_fuse(tmp_path: Path) -> None:
    run = support.new_run(tmp_path / "runs", "orpo", optim__lr=5e-3)
    assert support.engine(run) == 0
    code = (  # mlx-lm alone would find the slow BLAS; the answer is the same
        "import mlx_align.backends.mlx, sys; from mlx_lm.cli import main; sys.argv[0] = 'mlx_lm'; main()"
    )
    base = str(embedded.model_folder())
    common = [sys.executable, "-c", code]
    said = subprocess.run(
        [*common, "generate", "--model", base, "--adapter-path", str(run.adapter),
         "--prompt", "What is 2 + 3?", "--max-tokens", "24", "--temp", "0", "--verbose", "False"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip()
    fused = tmp_path / "fused"
    subprocess.run(
        [*common, "fuse", "--model", base, "--adapter-path", str(run.adapter), "--save-path", str(fused)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    with_adapter = logps_by_mlx_lm(mlx_lm.load(base, adapter_path=str(run.adapter))[0])
    for got, want in zip(logps_by_mlx_lm(mlx_lm.load(str(fused))[0]), with_adapter, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_continuing_from_an_adapter(tmp_path: Path) -> None:
    """The second run begins where the first ended, and its DPO reference is that beginning."""
    first = support.new_run(tmp_path / "runs", "sft", optim__lr=5e-3)
    assert support.engine(first) == 0
    run = support.new_run(tmp_path / "more", "dpo", adapter__start=str(first.adapter))
    assert support.engine(run) == 0
    start = run.state().evals[0].metrics
    assert start["margin"] == pytest.approx(0.0, abs=1e-6)
    assert start["kl"] == pytest.approx(0.0, abs=1e-9)
    assert (run.path / "start" / "adapters.safetensors").read_bytes() == (
        first.adapter / "adapters.safetensors"
    ).read_bytes()
