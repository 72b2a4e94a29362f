"""The next token's distribution is the one that training scores its tokens by, on either backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlx_align.data import collate
from tests import support


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_it_is_the_distribution_of_training(backend: str) -> None:
    policy = support.policy(backend=backend)
    examples = support.examples()[:3]
    scored = policy.logps(collate(examples))[::2, 0]  # of every chosen answer, the first token
    table = policy.next_logps([example.prompt_ids for example in examples])
    assert table.shape == (3, 1024)
    assert table.dtype == np.float32
    np.testing.assert_allclose(np.exp(table.astype(np.float64)).sum(axis=1), 1.0, atol=1e-5)
    first = [example.branch_ids[0][0] for example in examples]
    np.testing.assert_allclose(table[np.arange(3), first], scored, atol=2e-5)


def test_the_backends_agree_on_one_adapter(tmp_path: Path) -> None:
    from mlx_align import backends, embedded
    from mlx_align.config import BackendConfig

    support.policy(spread=0.1).save_adapter(tmp_path)
    prompts = [example.prompt_ids for example in support.examples()[:2]]
    mlx, torch = (
        backends.create(BackendConfig(name=name, device="cpu"))
        .load_for_generation(embedded.model_folder(), tmp_path)
        .next_logps(prompts)
        for name in ("mlx", "torch")
    )
    np.testing.assert_allclose(mlx, torch, atol=1e-4)
