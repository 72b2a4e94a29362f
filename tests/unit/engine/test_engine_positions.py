"""A model that turns short and long texts by other factors: the longest row of a run decides for all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlx_align import embedded
from mlx_align.backends.mlx.backend import MlxBackend
from mlx_align.config import RunConfig
from mlx_align.engine import session
from mlx_align.engine.preparing import longest_of
from tests import support


def stretched(folder: Path, longest_short: int) -> str:
    """The embedded model with factors for short texts and others for long ones."""
    shutil.copytree(embedded.model_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    size = config["head_dim"] // 2
    factors = {"short_factor": [1.0] * size, "long_factor": [2.0] * size}
    stretching = {"type": "longrope", "original_max_position_embeddings": longest_short, **factors}
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": stretching}))
    return str(folder)


def test_the_longest_row_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the model is loaded, by what its scores are kept, and what a person is told."""
    loaded: list[int] = []
    known: list[bool] = []
    load, digest = MlxBackend.load_policy, session.policy_digest

    def loading(backend: MlxBackend, *given: Any) -> Any:
        loaded.append(given[-1])
        return load(backend, *given)

    def knowing(*given: Any, long: bool) -> str:
        known.append(long)
        return digest(*given, long=long)

    monkeypatch.setattr(MlxBackend, "load_policy", loading)
    monkeypatch.setattr(session, "policy_digest", knowing)

    def told(longest_short: int) -> list[str]:
        model = stretched(tmp_path / f"model-{longest_short}", longest_short)
        run = support.new_run(tmp_path / "runs", model__path=model, train__steps=1)
        assert support.engine(run) == 0
        return [alert.message for alert in run.state().alerts if alert.code == "long-positions"]

    assert told(100_000) == []
    (longest,) = loaded
    assert told(longest) == []
    (message,) = told(longest - 1)
    assert f"{longest} tokens" in message
    assert f"data.max_length={longest - 1}" in message
    assert loaded == [longest] * 3
    assert known == [False, False, True]


def test_an_answer_that_is_sampled_counts() -> None:
    rows = support.examples()
    longest = max(row.length for row in rows)
    for method, beside in (("dpo", 0), ("grpo", 77)):
        config = RunConfig.model_validate({"method": {"name": method}, "sampling": {"max_tokens": 77}})
        assert longest_of(config, rows) == longest + beside
